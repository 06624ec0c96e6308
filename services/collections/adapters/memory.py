"""The registry in memory: for tests, and the reference the database is held to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from services.collections.ports import ChangeCollection, ChangeDocuments, RestoreCollection
from services.collections.records import (
    Change,
    Collection,
    Delta,
    Document,
    DocumentTotals,
    amounts_of,
    collection_fields,
    decode,
    document_fields,
    encode,
    now,
)
from services.mesh.errors import CollectionNotFound
from services.mesh.filters import Filter, evaluate
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.quotas import Amounts, check_quota
from services.mesh.receipts import REQUEST_TTL, Receipt

T = TypeVar("T")


class MemoryStore:
    """Fulfils RegistryStore; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}
        self._documents: dict[str, dict[str, Document]] = {}
        self._changes: list[Change] = []
        self._sequence = 0
        self._receipts: dict[tuple[str, str, str], tuple[str, bytes, datetime]] = {}

    async def find_collection(self, tenant: str, collection_id: str) -> Collection | None:
        return self._live(tenant, collection_id)

    async def list_collections(self, tenant: str, query: ListQuery, *, deleted: bool = False) -> Page[Collection]:
        listed = (each for each in self._collections.values() if each.tenant == tenant and _listed(each, deleted))
        return paginate(listed, query, collection_fields)

    async def write_collection(
        self,
        tenant: str,
        collection_id: str,
        change: ChangeCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        if receipt and (answered := await self.recall(receipt, Collection)) is not None:
            return answered
        current = self._live(tenant, collection_id)
        changed = change(current)
        if limits is not None and current is None:
            await self._check(tenant, limits, amounts_of(changed))
        if changed != current:
            changed = self._put(current, changed)
        self._remember(receipt, changed)
        return changed

    async def restore_collection(
        self,
        tenant: str,
        collection_id: str,
        change: RestoreCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        if receipt and (answered := await self.recall(receipt, Collection)) is not None:
            return answered
        back = change(self._live(tenant, collection_id), await self.deleted_collections(tenant, collection_id))
        if limits is not None:
            await self._check(tenant, limits, amounts_of(back))
        back = self._put(self._collections[back.uid], back)
        self._remember(receipt, back)
        return back

    async def settle_collection(self, collection: Collection) -> None:
        held = self._collections.get(collection.uid)
        if held is not None and held.sequence == collection.sequence:
            self._collections[held.uid] = replace(held, unsettled=False)

    async def begin_purge(self, uid: str) -> bool:
        held = self._collections.get(uid)
        if held is None or held.delete_time is None or held.purge_time is None:
            return False
        self._collections[uid] = replace(held, purging=True, purge_time=min(held.purge_time, now()))
        return True

    async def purge_collection(self, uid: str) -> None:
        if uid in self._collections and self._collections[uid].purging:
            del self._collections[uid], self._documents[uid]

    async def deleted_collections(self, tenant: str, collection_id: str | None = None) -> list[Collection]:
        found = [
            each
            for each in self._collections.values()
            if each.delete_time and each.tenant == tenant and collection_id in (None, each.collection_id)
        ]
        return sorted(found, key=lambda each: -each.sequence)

    async def collections_to_purge(self, before: datetime) -> list[Collection]:
        return [each for each in self._collections.values() if each.purge_time and each.purge_time < before]

    async def unsettled_collections(self, before: datetime) -> list[Collection]:
        return [each for each in self._collections.values() if each.unsettled and each.update_time < before]

    async def expired_collections(self, at: datetime) -> list[Collection]:
        return [each for each in self._all_live() if each.expire_time and each.expire_time <= at]

    async def latest(self, after: int, limit: int) -> list[Collection]:
        return sorted((each for each in self._all_live() if each.sequence > after), key=lambda each: each.sequence)[
            :limit
        ]

    async def changes(self, after: int, limit: int) -> list[Change]:
        return [each for each in self._changes if each.collection.sequence > after][:limit]

    async def last_sequence(self) -> int:
        return self._sequence

    async def find_documents(
        self, collection: Collection, document_ids: Sequence[str], *, deleted: bool = False
    ) -> list[Document]:
        held = self._documents.get(collection.uid, {})
        found = (held[document_id] for document_id in document_ids if document_id in held)
        return [document for document in found if bool(document.delete_time) is deleted]

    async def find_contents(self, tenant: str, content_hashes: Iterable[str]) -> set[str]:
        uids = {uid for uid, collection in self._collections.items() if collection.tenant == tenant}
        held = {each.content_hash for uid in uids for each in self._documents.get(uid, {}).values()}
        return held.intersection(content_hashes)

    async def list_documents(
        self, collection: Collection, query: ListQuery, *, deleted: bool = False
    ) -> Page[Document]:
        held = self._documents.get(collection.uid, {}).values()
        return paginate((each for each in held if _listed(each, deleted)), query, document_fields)

    async def write_documents(
        self,
        collection: Collection,
        document_ids: Sequence[str],
        change: ChangeDocuments,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> tuple[Document, ...]:
        if receipt and (answered := await self.recall(receipt, tuple[Document, ...])) is not None:
            return answered
        current = self._collections.get(collection.uid)
        if current is None or current.delete_time:
            raise CollectionNotFound(f"{collection.name} was deleted", collection=collection.name)
        held = self._documents[collection.uid]
        before = {document_id: held[document_id] for document_id in document_ids if document_id in held}
        changed = change(before)
        after = {**before, **changed}
        delta = Delta.of([before.get(each) for each in document_ids], [after.get(each) for each in document_ids])
        if limits is not None:
            await self._check(collection.tenant, limits, delta.amounts)
        for document_id, document in changed.items():
            if document is None:
                held.pop(document_id, None)
            else:
                held[document_id] = document
        self._collections[collection.uid] = delta.added_to(current)
        result = tuple(document for each in document_ids if (document := after.get(each)))
        self._remember(receipt, result)
        return result

    async def list_source_documents(self, collection: Collection, source_key: str, after: str, limit: int) -> list[str]:
        return sorted(
            each.document_id
            for each in self._live_documents(collection)
            if each.source_key == source_key and each.document_id > after
        )[:limit]

    async def select_documents(self, collection: Collection, filter: Filter, after: str, limit: int) -> list[Document]:
        found = [each for each in self._matching(collection, filter) if each.document_id > after]
        return sorted(found, key=lambda each: each.document_id)[:limit]

    async def count_documents(self, collection: Collection, filter: Filter) -> int:
        return len(self._matching(collection, filter))

    def _matching(self, collection: Collection, filter: Filter) -> list[Document]:
        return [each for each in self._live_documents(collection) if evaluate(filter, document_fields(each))]

    async def unfinished_documents(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        return [
            (collection, document)
            for collection in self._all_live()
            for document in self._documents[collection.uid].values()
            if document.unsettled_time and document.unsettled_time < before and not document.purging
        ][:limit]

    async def pending_documents(
        self, before: datetime, after_uid: str, limit: int
    ) -> list[tuple[Collection, Document]]:
        found = [
            (collection, document)
            for collection in self._all_live()
            for document in self._live_documents(collection)
            if document.state == "PENDING" and document.update_time < before and document.uid > after_uid
        ]
        return sorted(found, key=lambda each: each[1].uid)[:limit]

    async def documents_to_purge(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        return [
            (collection, document)
            for collection in self._all_live()
            for document in self._documents[collection.uid].values()
            if document.purge_time and document.purge_time < before
        ][:limit]

    async def totals(self, collection: Collection) -> DocumentTotals:
        documents = self._live_documents(collection)
        states = [document.state for document in documents]
        return DocumentTotals(
            active=states.count("ACTIVE"),
            pending=states.count("PENDING"),
            failed=states.count("FAILED"),
            tokens=sum(document.token_count for document in documents if document.state == "ACTIVE"),
            size_bytes=sum(document.size_bytes for document in documents),
            last_write_time=max((document.update_time for document in documents), default=None),
            hidden_chunks=sum(
                document.chunk_count
                for document in self._documents.get(collection.uid, {}).values()
                if document.delete_time and document.state == "ACTIVE"
            ),
        )

    async def usage(self, tenant: str) -> Amounts:
        live = (amounts_of(each) for each in self._all_live() if each.tenant == tenant)
        return sum(live, start=Amounts())

    async def sizes(self, largest: int) -> tuple[Amounts, dict[str, Amounts]]:
        live = sorted(self._all_live(), key=lambda each: (-each.chunk_count, each.uid))
        whole = sum(map(amounts_of, live), start=Amounts())
        return whole, {each.uid: amounts_of(each) for each in live[:largest]}

    async def recall(self, receipt: Receipt, kind: type[T]) -> T | None:
        digest, result, expire_time = self._receipts.get(_key(receipt), ("", b"", now()))
        if expire_time <= now():
            return None
        receipt.check(digest)
        return decode(kind, result)

    async def remember(self, receipt: Receipt, result: T, kind: type[T]) -> T:
        if (answered := await self.recall(receipt, kind)) is not None:
            return answered
        self._remember(receipt, result)
        return result

    async def forget(self, receipt: Receipt) -> None:
        self._receipts.pop(_key(receipt), None)

    async def prune_receipts(self, at: datetime) -> int:
        before = len(self._receipts)
        self._receipts = {key: each for key, each in self._receipts.items() if each[2] > at}
        return before - len(self._receipts)

    async def erase(self, tenant: str, *, before: datetime, limit: int) -> tuple[int, bool]:
        answers = [key for key in self._receipts if key[0] == tenant][:limit]
        for key in answers:
            del self._receipts[key]
        told = [each for each in self._changes if each.collection.tenant == tenant]
        old = [each for each in told if each.time < before][:limit]
        self._changes = [each for each in self._changes if each not in old]
        more = len(told) > len(old) or any(key[0] == tenant for key in self._receipts)
        return len(answers) + len(old), more

    async def compact(self) -> bool:
        return True

    async def check(self) -> None:
        """Always answers."""

    async def _check(self, tenant: str, limits: Amounts, more: Amounts) -> None:
        check_quota(tenant, limits=limits, usage=await self.usage(tenant), more=more)

    def _put(self, before: Collection | None, changed: Collection) -> Collection:
        self._sequence += 1
        changed = replace(changed, sequence=self._sequence)
        self._collections[changed.uid] = changed
        self._documents.setdefault(changed.uid, {})
        self._changes.append(Change.of(before, changed))
        return changed

    def _live(self, tenant: str, collection_id: str) -> Collection | None:
        named = (each for each in self._all_live() if (each.tenant, each.collection_id) == (tenant, collection_id))
        return next(named, None)

    def _all_live(self) -> list[Collection]:
        return [each for each in self._collections.values() if each.delete_time is None]

    def _live_documents(self, collection: Collection) -> list[Document]:
        held: Mapping[str, Document] = self._documents.get(collection.uid, {})
        return [document for document in held.values() if document.delete_time is None]

    def _remember(self, receipt: Receipt | None, result: object) -> None:
        if receipt:
            self._receipts[_key(receipt)] = receipt.digest, encode(result), now() + REQUEST_TTL


def _listed(each: Collection | Document, deleted: bool) -> bool:
    """There; or, with `deleted`, can come back."""
    back = deleted and not each.purging and each.purge_time is not None and each.purge_time > now()
    return each.delete_time is None or back


def _key(receipt: Receipt) -> tuple[str, str, str]:
    return receipt.tenant, receipt.method, receipt.request_id
