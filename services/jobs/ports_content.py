"""What turning bytes into chunks needs of the world: where bytes rest, how text is got, how tokens are counted."""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import datetime
from typing import Protocol

from services.jobs.blobs import Blob
from services.jobs.extraction import ExtractedText


class BlobStore(Protocol):
    """Original bytes and the text extracted from them, by content hash; one tenant never sees another's.

    `put`, `put_upload` and `put_text` raise TenantDeleted, and keep nothing, from `erase` on until `admit`.
    """

    async def put(
        self, tenant: str, content: AsyncIterable[bytes], *, max_bytes: int | None = None, sha256: str = ""
    ) -> Blob:
        """Store a stream and return its hash and size; durable when this returns.

        Args:
            sha256: What its hash must be, where one is given.

        Raises:
            DocumentTooLarge: more than `max_bytes`; nothing is kept.
            InvalidArgument: its hash is another; nothing is kept.
        """
        ...

    async def put_upload(
        self,
        tenant: str,
        upload: str,
        offset: int,
        content: AsyncIterable[bytes],
        *,
        max_bytes: int | None = None,
        sha256: str = "",
    ) -> Blob:
        """As `put`, of a stream that is the whole from `offset` on. When it breaks off, what has come is kept.

        Args:
            upload: Names it among the tenant's uploads.

        Raises:
            UploadOffsetInvalid: less than `offset` has come of it.
            DocumentTooLarge, InvalidArgument: as `put`; what has come before is dropped too.
        """
        ...

    async def received(self, tenant: str, upload: str) -> int:
        """How many bytes have come of an upload that broke off. Raises UploadNotFound where none have."""
        ...

    async def forget_uploads(self, idle_s: float) -> int:
        """Drop what has come of uploads that nobody has gone on with for so long; returns how much was dropped."""
        ...

    def open(self, tenant: str, content_hash: str) -> AsyncIterator[bytes]:
        """The content in pieces of at most 1 MiB.

        Raises:
            UploadNotFound: the tenant has no such content.
        """
        ...

    async def read(self, tenant: str, content_hash: str) -> bytes:
        """The content whole.

        Raises:
            UploadNotFound: the tenant has no such content.
        """
        ...

    async def part(self, tenant: str, content_hash: str, start: int, length: int) -> bytes:
        """So many bytes of the content from that one on; fewer at its end, none past it.

        Raises:
            UploadNotFound: the tenant has no such content.
        """
        ...

    async def keep(self, tenant: str, content_hash: str) -> bool:
        """Whether there is such content. Where there is, it is needed now: it begins to rest anew, as if put again."""
        ...

    def resting(self, part: int, before: datetime) -> AsyncIterator[tuple[str, Sequence[str]]]:
        """Tenants and hashes of their content that nobody has put or kept since then, at most 1,000 at a time.

        Args:
            part: Which of the `PARTS` of all content; from 0.
        """
        ...

    async def forget(self, tenant: str, content_hashes: Sequence[str], before: datetime) -> int:
        """Forget content, and every text extracted from it, unless it was put or kept since then; how much that was.

        Where somebody keeps content meanwhile, it stays, or `keep` tells that it is gone.

        Raises:
            UploadNotFound: one of them is no SHA-256.
        """
        ...

    async def put_text(self, tenant: str, content_hash: str, version: str, text: ExtractedText) -> None:
        """Keep what an extractor of this version made of the content."""
        ...

    async def get_text(self, tenant: str, content_hash: str, version: str) -> ExtractedText | None:
        """What `put_text` kept, or None: then extract again."""
        ...

    async def erase(self, tenant: str, limit: int) -> tuple[int, bool]:
        """Delete at most so many of the tenant's files, whoever writes one just now: how many, and whether that is all.

        Whatever becomes of the process that calls, nothing is read or written there any more.
        """
        ...

    async def admit(self, tenant: str) -> None:
        """Take from the tenant again; no error where it was never erased."""
        ...


class Extractor(Protocol):
    """Documents in, text out."""

    @property
    def version(self) -> str:
        """Changes whenever the same bytes might give another text."""
        ...

    async def extract(self, content: bytes, *, name: str, media_type: str = "", tenant: str = "") -> ExtractedText:
        """The text of a document.

        Args:
            content: The whole original.
            name: File name or document id: decides the type where nothing better does, and is named in errors.
            media_type: As declared by who sent it, parameters such as charset included.
            tenant: Whose it is: tenants do not wait for one another's documents.

        Raises:
            EmptyDocument: no bytes.
            NoTextFound: readable, but without text, such as a scan.
            UnsupportedMediaType: a kind of file nothing here reads.
            UnreadableDocument: corrupt, protected, or over the extractor's bounds of time and memory.
            DocumentTooLarge: over the size limit, before or after extraction.
        """
        ...


class Tokenizer(Protocol):
    """Tokens as the embedding model counts them."""

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """For each text the (start, end) of its tokens in code points, without special tokens, never truncated."""
        ...

    def counts(self, texts: Sequence[str]) -> list[int]:
        """For each text how many tokens the model sees, special tokens included, never truncated."""
        ...
