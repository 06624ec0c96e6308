"""Erasing a tenant's jobs and what they keep, a part at a time."""

from typing import Final

from services.jobs.ports import JobStore
from services.jobs.ports_content import BlobStore

_FILES_AT_ONCE: Final = 5_000


class Erasure:
    """Bars the tenant first: whatever its workers still do is lost to them, and nothing of it is written any more."""

    def __init__(self, store: JobStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    async def erase(self, tenant: str) -> tuple[int, bool]:
        """Erases some of what is kept of the tenant. May be repeated.

        Returns:
            How much it was, and whether there was nothing left to erase.
        """
        entries, store_done = await self._store.erase(tenant)
        files, blobs_done = await self._blobs.erase(tenant, _FILES_AT_ONCE)
        count = entries + files
        return count, store_done and blobs_done and not count

    async def admit(self, tenant: str) -> None:
        """Takes jobs and files of the tenant again."""
        await self._blobs.admit(tenant)
        await self._store.admit(tenant)
