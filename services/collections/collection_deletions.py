"""Collections that are deleted, and how they come back."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta

from services.collections.ports import Index, RegistryStore
from services.collections.quotas import Quotas
from services.collections.records import Collection, amounts_of, new_etag, now
from services.collections.text import collection_id_of, same_etag
from services.mesh.errors import AlreadyExists, CollectionNotEmpty, CollectionNotFound, EtagMismatch
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt, once


class CollectionDeletions:
    """Deletes collections with all they hold, and takes that back.

    The index of a deleted collection stays until it is purged: searches refuse it by what they know of the collection.
    What a crash interrupts is brought to its end by `Upkeep` or by the same request, repeated.

    Args:
        announce: Wakes who follows the registry.
        retention: How long a deleted collection can come back; nothing at all for zero.
    """

    def __init__(
        self,
        store: RegistryStore,
        index: Index,
        quotas: Quotas,
        announce: Callable[[], None],
        *,
        retention: timedelta,
    ) -> None:
        self._store = store
        self._index = index
        self._quotas = quotas
        self._announce = announce
        self._retention = retention

    async def delete(
        self,
        name: str,
        who: Caller,
        *,
        etag: str = "",
        force: bool = False,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Collection:
        """Deletes a collection with all it holds; no search that begins afterwards finds it.

        Raises:
            CollectionNotFound: There is none of that name.
            CollectionNotEmpty: It holds documents, and `force` is not set.
            EtagMismatch: `etag` is given and is not the current one.
            DependencyUnavailable: The index does not answer; nothing has changed, or the deletion ends by itself.
        """
        collection_id = collection_id_of(name)

        async def recall(receipt: Receipt) -> Collection | None:
            answered = await self._recall(receipt)
            if answered:
                await self._finish_all(collection_id, who.tenant)
            return answered

        async def work() -> Collection:
            current = await self._store.find_collection(who.tenant, collection_id)
            gone = current is None and not validate_only
            if gone and (ended := await self._finish_all(collection_id, who.tenant)):
                return await self._store.remember(receipt, ended[0], Collection) if receipt else ended[0]
            deleted = self._deleted(current, collection_id, etag, force)
            if validate_only:
                return deleted
            await self._index.stats(deleted)  # refuses now what could not be made to hold
            written = await self._store.write_collection(
                who.tenant, collection_id, lambda latest: self._deleted(latest, collection_id, etag, force), receipt
            )
            self._announce()
            await self.finish(written)
            return written

        return await once(receipt, recall, work)

    async def undelete(
        self,
        name: str,
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Collection:
        """Brings back the collection of that name deleted last; every search that begins afterwards finds it.

        Raises:
            AlreadyExists: It is not deleted, or another has its id.
            CollectionNotFound: There is none of that name that could come back.
            EtagMismatch: `etag` is given and is not the current one.
            QuotaExceeded: The tenant may not keep so much.
            DependencyUnavailable: The index does not answer; nothing has changed, or it comes back by itself.
        """
        collection_id = collection_id_of(name)

        async def recall(receipt: Receipt) -> Collection | None:
            answered = await self._recall(receipt)
            if answered and (current := await self._store.find_collection(who.tenant, collection_id)):
                await self.finish(current)
            return answered

        async def work() -> Collection:
            deleted = await self._store.deleted_collections(who.tenant, collection_id)
            current = await self._store.find_collection(who.tenant, collection_id)
            if current and current.unsettled:  # whoever asks again may rely on the end of what was interrupted
                await self.finish(current)
            back = _undeleted(current, deleted, collection_id, etag)
            if validate_only:
                await self._quotas.check(who.tenant, amounts_of(back))
                return back
            await self._index.stats(back)  # refuses now what could not be made to hold
            written = await self._quotas.within(
                who.tenant,
                lambda limits: self._store.restore_collection(
                    who.tenant,
                    collection_id,
                    lambda live, deleted: _undeleted(live, deleted, collection_id, etag),
                    receipt,
                    limits=limits,
                ),
            )
            self._announce()
            await self.finish(written)
            return written

        return await once(receipt, recall, work)

    async def finish(self, collection: Collection) -> None:
        """Makes a decided deletion, or one that was taken back, hold in the index. May be repeated."""
        if collection.purging:
            await self.purge(collection)
        elif collection.unsettled:
            await self._index.apply(collection)
            await self._store.settle_collection(collection)

    async def purge(self, deleted: Collection) -> None:
        """Lets a deleted collection go for good: from now on it cannot come back, then index, then rows.

        May be repeated; one that has come back meanwhile stays.
        """
        if await self._store.begin_purge(deleted.uid):
            await self._index.apply(deleted)
            await self._index.drop(deleted)
            await self._store.purge_collection(deleted.uid)

    async def _recall(self, receipt: Receipt) -> Collection | None:
        return await self._store.recall(receipt, Collection)

    async def _finish_all(self, collection_id: str, tenant: str) -> Sequence[Collection]:
        """Brings interrupted deletions of the id to their end; returns them, the latest first."""
        deleted = await self._store.deleted_collections(tenant, collection_id)
        interrupted = [each for each in deleted if each.unsettled]
        for each in interrupted:
            await self.finish(each)
        return interrupted

    def _deleted(self, current: Collection | None, collection_id: str, etag: str, force: bool) -> Collection:
        if current is None:
            raise _no_collection(collection_id)
        check_etag(current, etag)
        if current.document_count and not force:
            raise CollectionNotEmpty(
                f"{current.name} holds {current.document_count} documents; set force to delete them too",
                collection=current.name,
            )
        deleted_at = now()
        return replace(
            current,
            delete_time=deleted_at,
            purge_time=deleted_at + self._retention,
            purging=not self._retention,
            unsettled=True,
            update_time=deleted_at,
            etag=new_etag(),
        )


def _undeleted(live: Collection | None, deleted: Sequence[Collection], collection_id: str, etag: str) -> Collection:
    """The latest of the deleted ones as it comes back."""
    candidates = [each for each in deleted if can_come_back(each)]
    if live is not None:
        raise AlreadyExists(
            f"{live.name} is there; the deleted collection of that id can come back once this one is deleted or gone"
            if candidates
            else f"{live.name} is not deleted",
            collection=live.name,
        )
    if not candidates:
        raise _no_collection(collection_id)
    latest = candidates[0]
    check_etag(latest, etag)
    back_at = now()
    expired = latest.expire_time is not None and latest.expire_time <= back_at
    return replace(
        latest,
        delete_time=None,
        purge_time=None,
        expire_time=None if expired else latest.expire_time,
        unsettled=True,
        update_time=back_at,
        etag=new_etag(),
    )


def can_come_back(collection: Collection) -> bool:
    return not collection.purging and collection.purge_time is not None and collection.purge_time > now()


def may_undelete(who: Caller) -> bool:
    return "collections.write" in who.scopes


def check_etag(current: Collection, etag: str) -> None:
    """Raises EtagMismatch where an etag is given that is not the current one."""
    if etag and not same_etag(etag, current.etag):
        raise EtagMismatch(f"{current.name} has changed since this etag was read; read it again")


def _no_collection(collection_id: str) -> CollectionNotFound:
    return CollectionNotFound(f"no collection {collection_id!r}", collection=collection_id)
