"""Files sent before they are imported."""

import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from typing import Final

from services.jobs.blobs import Blob, check_size
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

    async def store(self, tenant: str, content: AsyncIterable[bytes], *, validate_only: bool = False) -> Blob:
        """The stored content's hash and size; with `validate_only` nothing is kept. Raises DocumentTooLarge."""
        if validate_only:
            return await self._measured(content)
        return await self._blobs.put(tenant, content, max_bytes=self._max_bytes)

    async def read(self, tenant: str, content_hash: str) -> AsyncIterator[bytes]:
        """The content in parts of at most 256 KiB. Raises UploadNotFound."""
        async for piece in self._blobs.open(tenant, content_hash):
            for start in range(0, len(piece), _PART_BYTES):
                yield piece[start : start + _PART_BYTES]

    async def _measured(self, content: AsyncIterable[bytes]) -> Blob:
        digest, size = hashlib.sha256(), 0
        async for piece in content:
            size += len(piece)
            check_size(size, self._max_bytes)
            digest.update(piece)
        return Blob(digest.hexdigest(), size)
