"""Files sent before they are imported."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from services.jobs.blobs import Blob, check_content, check_size
from services.jobs.ports_content import BlobStore

# What one message of a stream carries; the contract allows no more.
_PART_BYTES: Final = 256 * 1024


class Uploads:
    """Keeps what tenants upload.

    Args:
        max_bytes: Largest file.
    """

    def __init__(self, blobs: BlobStore, *, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes

    async def store(
        self,
        tenant: str,
        content: AsyncIterable[bytes],
        *,
        upload: str = "",
        offset: int = 0,
        sha256: str = "",
        validate_only: bool = False,
    ) -> Blob:
        """The stored content's hash and size; with `validate_only` nothing is kept.

        Args:
            upload: Under which to keep what has come when the content breaks off; none where empty.
            offset: Where `content` begins; what comes before has come under `upload`.
            sha256: What the hash of the whole must be, where one is given.

        Raises:
            DocumentTooLarge: More than a document may have.
            InvalidArgument: The hash is another.
            UploadOffsetInvalid: Less has come than `offset`.
        """
        if validate_only:
            return await self._measured(content, sha256)
        if upload:
            return await self._blobs.put_upload(
                tenant, upload, offset, content, max_bytes=self._max_bytes, sha256=sha256
            )
        return await self._blobs.put(tenant, content, max_bytes=self._max_bytes, sha256=sha256)

    async def received(self, tenant: str, upload: str) -> int:
        """How many bytes have come of an upload that broke off. Raises UploadNotFound."""
        return await self._blobs.received(tenant, upload)

    async def read(self, tenant: str, content_hash: str) -> AsyncIterator[bytes]:
        """The content in parts of at most 256 KiB. Raises UploadNotFound."""
        async for piece in self._blobs.open(tenant, content_hash):
            for start in range(0, len(piece), _PART_BYTES):
                yield piece[start : start + _PART_BYTES]

    async def _measured(self, content: AsyncIterable[bytes], sha256: str) -> Blob:
        digest, size = hashlib.sha256(), 0
        async for piece in content:
            size += len(piece)
            check_size(size, self._max_bytes)
            digest.update(piece)
        check_content(digest.hexdigest(), sha256)
        return Blob(digest.hexdigest(), size)
