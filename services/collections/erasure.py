"""Erasing a tenant from the registry, a part at a time."""

from datetime import timedelta
from typing import Final

from services.collections.collection_deletions import CollectionDeletions
from services.collections.ports import RegistryStore
from services.collections.records import COLLECTIONS, now
from services.mesh.identity import Caller, acting_for

# Collections, and rows, that one call sees to.
_COLLECTIONS_AT_ONCE: Final = 10
_ROWS_AT_ONCE: Final = 5_000


class Erasure:
    """Collections go as when they are deleted one by one, from searches first, and cannot come back. Then answers and
    events of the past.

    Args:
        heard: Whoever follows the registry has heard of a deletion after this; until then its event stays.
    """

    def __init__(
        self, store: RegistryStore, deletions: CollectionDeletions, *, heard: timedelta = timedelta(seconds=60)
    ) -> None:
        self._store = store
        self._deletions = deletions
        self._heard = heard

    async def erase(self, tenant: str) -> tuple[int, bool]:
        """Erases some of what is kept of the tenant. May be repeated.

        Returns:
            How much it was, and whether there was nothing left to erase.

        Raises:
            DependencyUnavailable: The index or the database does not answer.
        """
        who = Caller.of_service("collections", tenant)
        with acting_for(who):
            collections, left = await self._collections(who)
        if left:
            return collections, False
        rows, more = await self._store.erase(tenant, before=now() - self._heard, limit=_ROWS_AT_ONCE)
        done = not collections and not rows and not more
        return collections + rows, done and await self._store.compact()

    async def _collections(self, who: Caller) -> tuple[int, bool]:
        """How many things went, and whether there are more."""
        query = COLLECTIONS.query(parent=who.tenant, page_size=_COLLECTIONS_AT_ONCE)
        page = await self._store.list_collections(who.tenant, query)
        for each in page.items:
            await self._deletions.delete(each.collection_id, who, force=True)
        deleted = await self._store.deleted_collections(who.tenant)
        for each in deleted[:_COLLECTIONS_AT_ONCE]:
            await self._deletions.purge(each)
        purged = min(len(deleted), _COLLECTIONS_AT_ONCE)
        return purged, page.total_size > len(page.items) or len(deleted) > purged
