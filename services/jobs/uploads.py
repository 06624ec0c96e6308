"""Files sent before they are imported."""

from collections.abc import AsyncIterable

from services.jobs.blobs import Blob
from services.jobs.ports_content import BlobStore


class Uploads:
    """Keeps what tenants upload.

    Args:
        max_bytes: Largest file.
    """

    def __init__(self, blobs: BlobStore, *, max_bytes: int) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes

    async def store(self, tenant: str, content: AsyncIterable[bytes]) -> Blob:
        """The stored content's hash and size. Raises DocumentTooLarge."""
        return await self._blobs.put(tenant, content, max_bytes=self._max_bytes)
