"""In-memory fulfilments of the ports content passes through; each runs its port's contract suite."""

import hashlib
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.jobs.blobs import PIECE_BYTES, Blob, check_content, check_hash, check_size
from services.jobs.extraction import ExtractedText, Syntax
from services.mesh.errors import (
    DomainError,
    NoTextFound,
    TenantDeleted,
    UnsupportedMediaType,
    UploadNotFound,
    UploadOffsetInvalid,
)
from services.mesh.media_types import SUPPORTED, media_type_of


class MemoryBlobStore:
    """Blobs in a dictionary."""

    def __init__(self) -> None:
        self.contents: dict[tuple[str, str], bytes] = {}
        self._rests_since: dict[tuple[str, str], datetime] = {}
        self._texts: dict[tuple[str, str, str], ExtractedText] = {}
        self._barred: set[str] = set()
        self._uploads: dict[tuple[str, str], tuple[float, bytes]] = {}

    async def put(
        self, tenant: str, content: AsyncIterable[bytes], *, max_bytes: int | None = None, sha256: str = ""
    ) -> Blob:
        whole = b""
        async for piece in content:
            whole += piece
            check_size(len(whole), max_bytes)
        return self._keep(tenant, whole, sha256)

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
        self._check(tenant)
        _, before = self._uploads.get((tenant, upload), (0.0, b""))
        if offset > len(before):
            raise UploadOffsetInvalid(f"offset: {len(before)} bytes have arrived", received_bytes=str(len(before)))
        whole = before[:offset]
        try:
            async for piece in content:
                whole += piece
                check_size(len(whole), max_bytes)
            kept = self._keep(tenant, whole, sha256)
        except DomainError:
            self._uploads.pop((tenant, upload), None)
            raise
        except BaseException:
            if len(whole) > len(before):
                self._uploads[tenant, upload] = time.time(), whole
            raise
        self._uploads.pop((tenant, upload), None)
        return kept

    def _keep(self, tenant: str, whole: bytes, sha256: str) -> Blob:
        self._check(tenant)
        content_hash = hashlib.sha256(whole).hexdigest()
        check_content(content_hash, sha256)
        self.contents[tenant, content_hash] = whole
        self._rests_since[tenant, content_hash] = datetime.now(UTC)
        return Blob(content_hash, len(whole))

    async def received(self, tenant: str, upload: str) -> int:
        if (tenant, upload) not in self._uploads:
            raise UploadNotFound(f"nothing has arrived of an upload of the request_id {upload!r}")
        return len(self._uploads[tenant, upload][1])

    async def forget_uploads(self, idle_s: float) -> int:
        late = [key for key, (at, _) in self._uploads.items() if at < time.time() - idle_s]
        for key in late:
            del self._uploads[key]
        return len(late)

    async def open(self, tenant: str, content_hash: str) -> AsyncIterator[bytes]:
        whole = await self.read(tenant, content_hash)
        for start in range(0, len(whole), PIECE_BYTES):
            yield whole[start : start + PIECE_BYTES]

    async def read(self, tenant: str, content_hash: str) -> bytes:
        if (tenant, content_hash) not in self.contents:
            raise UploadNotFound(f"no stored content is named {content_hash}")
        return self.contents[tenant, content_hash]

    async def part(self, tenant: str, content_hash: str, start: int, length: int) -> bytes:
        return (await self.read(tenant, content_hash))[start : start + length]

    async def keep(self, tenant: str, content_hash: str) -> bool:
        if (tenant, content_hash) not in self.contents:
            return False
        self._rests_since[tenant, content_hash] = datetime.now(UTC)
        return True

    async def resting(self, part: int, before: datetime) -> AsyncIterator[tuple[str, Sequence[str]]]:
        found = [key for key, since in self._rests_since.items() if since < before and int(key[1][:2], 16) == part]
        for tenant in {tenant for tenant, _ in found}:
            yield tenant, [content_hash for of, content_hash in found if of == tenant]

    async def forget(self, tenant: str, content_hashes: Sequence[str], before: datetime) -> int:
        keys = [(tenant, check_hash(each)) for each in content_hashes]
        resting = [key for key in keys if key in self.contents and self._rests_since[key] < before]
        for key in resting:
            del self.contents[key], self._rests_since[key]
        for text in [text for text in self._texts if text[:2] in resting]:
            del self._texts[text]
        return len(resting)

    async def put_text(self, tenant: str, content_hash: str, version: str, text: ExtractedText) -> None:
        self._check(tenant)
        self._texts[tenant, content_hash, version] = text

    async def get_text(self, tenant: str, content_hash: str, version: str) -> ExtractedText | None:
        return self._texts.get((tenant, content_hash, version))

    async def erase(self, tenant: str, limit: int) -> tuple[int, bool]:
        self._barred.add(tenant)
        kept: list[tuple[dict[Any, Any], Any]] = [(self.contents, key) for key in self.contents if key[0] == tenant]
        kept += [(self._texts, key) for key in self._texts if key[0] == tenant]
        kept += [(self._uploads, key) for key in self._uploads if key[0] == tenant]
        for held, key in kept[:limit]:
            del held[key]
        return min(len(kept), limit), len(kept) <= limit

    async def admit(self, tenant: str) -> None:
        self._barred.discard(tenant)

    def _check(self, tenant: str) -> None:
        if tenant in self._barred:
            raise TenantDeleted("the tenant was deleted; nothing is kept for it")


class PlainExtractor:
    """Reads UTF-8 text only; counts what it was asked."""

    version = "plain-1"

    def __init__(self) -> None:
        self.extracted: list[str] = []

    async def extract(self, content: bytes, *, name: str, media_type: str = "", tenant: str = "") -> ExtractedText:
        self.extracted.append(name)
        kind = media_type_of(content, name, media_type)
        try:
            text = content.decode().replace("\r\n", "\n")
        except UnicodeDecodeError:
            raise UnsupportedMediaType(f"{name}: it holds binary data; supported are {SUPPORTED}") from None
        if "\0" in text:
            raise UnsupportedMediaType(f"{name}: it holds binary data; supported are {SUPPORTED}")
        if not text.strip():
            raise NoTextFound(f"{name}: it holds no text")
        syntax = Syntax.MARKDOWN if kind.name == "text/markdown" else Syntax.PLAIN
        return ExtractedText(text, kind.name, syntax)


class WordTokenizer:
    """A token a word or sign; two special tokens a text."""

    _TOKEN = re.compile(r"\w+|[^\w\s]")

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        return [[found.span() for found in self._TOKEN.finditer(text)] for text in texts]

    def counts(self, texts: Sequence[str]) -> list[int]:
        return [len(spans) + 2 for spans in self.spans(texts)]
