"""The registry's collections as this process knows them: fed by its stream, asked for on a miss, told first."""

import asyncio
from contextlib import aclosing
from typing import Final

import structlog

from services.mesh.errors import CollectionNotFound, DependencyUnavailable, PermissionDenied
from services.retrieval.chunks import IndexId
from services.retrieval.collection import CollectionView
from services.retrieval.ports import Registry

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0


class CollectionsMirror:
    """Collections by name and by uid, without a call to their owner.

    Args:
        registry: Whom to follow.
        patience_s: How long a lookup waits for the first complete picture after the start.
    """

    def __init__(self, registry: Registry, *, patience_s: float = 5.0) -> None:
        self._registry = registry
        self._patience_s = patience_s
        self._by_uid: dict[IndexId, CollectionView] = {}
        self._by_name: dict[tuple[str, str], IndexId] = {}
        self._complete = asyncio.Event()
        self._sequence = 0

    def apply(self, view: CollectionView) -> None:
        """Takes a collection as it now is, unless a newer state of it is known. Holds from the next lookup on."""
        known = self._by_uid.get(view.uid)
        if known is not None and known.sequence > view.sequence:
            return
        self._by_uid[view.uid] = view
        name = (view.tenant, view.collection_id)
        namesake = self._by_uid.get(self._by_name.get(name, view.uid))
        if namesake is None or namesake.sequence <= view.sequence:
            self._by_name[name] = view.uid

    def told(self, view: CollectionView, tenant: str) -> None:
        """As `apply`, from who acts for a tenant. Raises PermissionDenied where the collection is another's."""
        if view.tenant != tenant:
            raise PermissionDenied("the collection is another tenant's")
        self.apply(view)

    def owned(self, uid: IndexId, tenant: str) -> IndexId:
        """The uid itself, unless its collection is known to be another tenant's; one not known has nothing to give.

        Raises:
            CollectionNotFound: It is another's.
        """
        view = self._by_uid.get(uid)
        if view is not None and view.tenant != tenant:
            raise CollectionNotFound(f"no collection with uid {uid!r}", collection_uid=uid)
        return uid

    async def find(self, tenant: str, collection_id: str) -> CollectionView:
        """The collection of that id, deleted ones aside; one not known here is asked for, as the current caller.

        Raises:
            CollectionNotFound: The tenant has none.
        """
        view = self._named(tenant, collection_id)
        if view is None:
            told = await self._registry.get(collection_id)
            if told is not None:
                self.apply(told)
            view = self._named(tenant, collection_id)
        if view is None:
            raise CollectionNotFound(f"no collection {collection_id!r}", collection=collection_id)
        return view

    def _named(self, tenant: str, collection_id: str) -> CollectionView | None:
        uid = self._by_name.get((tenant, collection_id))
        view = None if uid is None else self._by_uid[uid]
        return None if view is None or view.deleted else view

    async def by_uid(self, uid: IndexId) -> CollectionView:
        """The collection with that uid, deleted ones aside.

        Raises:
            CollectionNotFound: There is none.
            DependencyUnavailable: The registry has not told yet what there is.
        """
        if uid not in self._by_uid:
            if self._complete.is_set():
                await self._catch_up()
            else:
                try:
                    await asyncio.wait_for(self._complete.wait(), self._patience_s)
                except TimeoutError:
                    await self.check()
        view = self._by_uid.get(uid)
        if view is None or view.deleted:
            raise CollectionNotFound(f"no collection with uid {uid!r}", collection_uid=uid)
        return view

    async def _catch_up(self) -> None:
        """Takes what is recorded by now: of what another replica of the registry recorded, its stream tells later."""
        async with aclosing(self._registry.watch(self._sequence)) as told:
            async for changes in told:
                for view in changes.collections:
                    self.apply(view)
                if changes.complete:
                    return

    def of_tenant(self, tenant: str) -> list[IndexId]:
        """The uids of the tenant's collections, deleted ones included."""
        return [uid for uid, view in self._by_uid.items() if view.tenant == tenant]

    def forget(self, uid: IndexId) -> None:
        """Lets go of a collection that is being erased: from now on there is none."""
        view = self._by_uid.pop(uid, None)
        if view is not None and self._by_name.get((view.tenant, view.collection_id)) == uid:
            del self._by_name[view.tenant, view.collection_id]

    async def language_of(self, uid: IndexId) -> str:
        """The language of the collection with that uid; see by_uid."""
        return (await self.by_uid(uid)).language

    async def check(self) -> None:
        """Returns once every collection has been told of.

        Raises:
            DependencyUnavailable: Not yet.
        """
        if not self._complete.is_set():
            raise DependencyUnavailable("the collections service has not answered yet", retry_after_s=1.0)

    async def run(self) -> None:
        """Follows the registry until cancelled; where the stream breaks, goes on from the last change it saw."""
        log = structlog.get_logger("retrieval.collections")
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                async for changes in self._registry.watch(self._sequence if self._complete.is_set() else 0):
                    retry_s = _FIRST_RETRY_S
                    for view in changes.collections:
                        self.apply(view)
                        self._sequence = max(self._sequence, view.sequence)
                    if changes.complete:
                        self._complete.set()
            except DependencyUnavailable as error:
                log.info("registry stream broke", reason=error.message, retry_in_s=retry_s)
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)
