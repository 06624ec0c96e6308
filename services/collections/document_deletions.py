"""Documents that are deleted, and how they come back."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta

from services.collections.document_access import check_found, ids_in, may_read, not_found
from services.collections.document_changes import as_deleted, as_undeleted, can_come_back
from services.collections.document_writer import DocumentWriter, pushed
from services.collections.imports import Imports
from services.collections.ports import Index, RegistryStore
from services.collections.quotas import Quotas
from services.collections.records import DOCUMENTS, Collection, Delta, Document, document_fields
from services.collections.text import collection_id_of, document_ids_of
from services.mesh.errors import AlreadyExists, CollectionNotFound, InvalidArgument
from services.mesh.filters import evaluate, parse
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt, once


class DocumentDeletions:
    """Deletes documents, and takes that back.

    A deletion is decided in the registry and holds in the index before it is acknowledged: the chunks stay there, and
    nobody finds them. So taking it back costs no import. What a crash interrupts is brought to its end by `Upkeep` or
    by the same request, repeated.

    Args:
        retention: How long a deleted document can come back; nothing at all for zero.
    """

    def __init__(
        self, store: RegistryStore, index: Index, imports: Imports, quotas: Quotas, *, retention: timedelta
    ) -> None:
        self._store = store
        self._index = index
        self._imports = imports
        self._quotas = quotas
        self._retention = retention
        self._writer = DocumentWriter(store, index)

    async def delete(
        self,
        name: str,
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Document:
        """Deletes a document. No search that begins afterwards finds it.

        Raises:
            DocumentNotFound: There is none of that name.
            EtagMismatch: `etag` is given and is not the current one.
            DependencyUnavailable: The index does not answer; nothing has changed, or the deletion ends by itself.
        """
        collection_id, document_id = document_ids_of(name)
        (deleted,) = await self._delete(collection_id, [document_id], who, [etag], receipt, validate_only)
        return deleted

    async def batch_delete(
        self,
        parent: str,
        names: Sequence[str],
        who: Caller,
        *,
        etags: Sequence[str] = (),
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> tuple[Document, ...]:
        """Deletes documents, all or none.

        Args:
            etags: One a name, or none at all; an empty one is not compared.

        Raises:
            DocumentNotFound: Some are not there; names them.
            EtagMismatch: An etag is given and is not the current one.
        """
        if etags and len(etags) != len(names):
            raise InvalidArgument.of("etags", f"must be one for each of the {len(names)} names, or none")
        collection_id = collection_id_of(parent, field="parent")
        return await self._delete(collection_id, ids_in(collection_id, names), who, etags, receipt, validate_only)

    async def delete_source(
        self, collection_id: str, document_ids: Sequence[str], who: Caller, *, filter: str = ""
    ) -> int:
        """Deletes those of the documents that exist, and match at this moment; returns how many there were.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        wanted = parse(filter, DOCUMENTS.schema)
        collection = await self._writer.collection(collection_id, who)
        found = await self._store.find_documents(collection, document_ids)
        if not found:
            return 0
        chosen: set[str] = set()

        def decide(latest: Mapping[str, Document]) -> Mapping[str, Document]:
            there = [each for each in latest.values() if not each.delete_time]
            matching = [each for each in there if evaluate(wanted, document_fields(each))]
            chosen.clear()
            chosen.update(each.document_id for each in matching)
            return as_deleted(matching, {}, self._retention)

        await self._index.stats(collection)  # refuses now what could not be carried out
        left = await self._store.write_documents(collection, [each.document_id for each in found], decide)
        deleted = [each for each in left if each.document_id in chosen]
        await self._finish(collection, deleted)
        return len(deleted)

    async def undelete(
        self,
        name: str,
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Document:
        """Brings a deleted document back. Every search that begins afterwards finds it, unless it comes back PENDING.

        Raises:
            AlreadyExists: It is not deleted.
            DocumentNotFound: There is none of that name that could come back.
            EtagMismatch: `etag` is given and is not the current one.
            QuotaExceeded: The tenant may not keep so much.
            DependencyUnavailable: The index does not answer; nothing has changed, or it comes back by itself.
        """
        collection_id, document_id = document_ids_of(name)

        async def recall(receipt: Receipt) -> Document | None:
            answered = await self._store.recall(receipt, tuple[Document, ...])
            if not answered:
                return None
            if collection := await self._store.find_collection(who.tenant, collection_id):
                for each in await self._store.find_documents(collection, [document_id]):
                    await self._bring_back(collection, each)
            return answered[0]

        async def work() -> Document:
            collection = await self._writer.collection(collection_id, who)
            deleted = await self._deleted(collection, document_id, who)
            _, chunks = await self._index.list_chunks(deleted, 0, 1)
            whole = deleted.state != "ACTIVE" or chunks >= deleted.chunk_count

            def decide(found: Mapping[str, Document]) -> Mapping[str, Document]:
                latest = found.get(document_id)
                if latest is not None and not latest.delete_time:
                    raise _not_deleted(latest)
                if latest is None or not can_come_back(latest):
                    raise not_found(collection, [document_id])
                return {document_id: as_undeleted(latest, etag, whole=whole)}

            if validate_only:
                back = decide({document_id: deleted})[document_id]
                await self._quotas.check(who.tenant, Delta.of([deleted], [back]).amounts)
                return back
            (back,) = await self._quotas.within(
                who.tenant,
                lambda limits: self._store.write_documents(collection, [document_id], decide, receipt, limits=limits),
            )
            await self._bring_back(collection, back)
            return back

        return await once(receipt, recall, work)

    async def _deleted(self, collection: Collection, document_id: str, who: Caller) -> Document:
        for live in await self._store.find_documents(collection, [document_id]):
            if may_read(live, who):
                if live.unsettled:  # an interrupted undeletion, perhaps: whoever asks again may rely on its end
                    await self._writer.settle(collection, await self._writer.begin(collection, live))
                raise _not_deleted(live)
        for deleted in await self._store.find_documents(collection, [document_id], deleted=True):
            if may_read(deleted, who):
                return deleted
        raise not_found(collection, [document_id])

    async def _bring_back(self, collection: Collection, back: Document) -> None:
        if not back.unsettled:
            return
        if back.state == "PENDING" and back.content_hash:
            await self._imports.again(collection, back)
        await self._writer.settle(collection, back)

    async def _delete(
        self,
        collection_id: str,
        document_ids: Sequence[str],
        who: Caller,
        etags: Sequence[str] = (),
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> tuple[Document, ...]:
        etag_of = dict(zip(document_ids, etags, strict=False))

        async def recall(receipt: Receipt) -> tuple[Document, ...] | None:
            answered = await self._store.recall(receipt, tuple[Document, ...])
            if answered and (collection := await self._store.find_collection(who.tenant, collection_id)):
                await self._finish(collection, await self._store.find_documents(collection, document_ids, deleted=True))
            return answered

        async def work() -> tuple[Document, ...]:
            collection = await self._writer.collection(collection_id, who)

            def decide(latest: Mapping[str, Document]) -> Mapping[str, Document]:
                """Those whose deletion has not ended stay as they are: it is only brought to its end."""
                there = {name: each for name, each in latest.items() if not each.delete_time or each.unsettled}
                check_found(collection, document_ids, there)
                return as_deleted([each for each in there.values() if not each.delete_time], etag_of, self._retention)

            if validate_only:
                found = await self._store.find_documents(collection, document_ids)
                decided = decide({each.document_id: each for each in found})
                return tuple(decided[document_id] for document_id in document_ids)
            await self._index.stats(collection)  # refuses now what could not be carried out
            deleted = await self._store.write_documents(collection, document_ids, decide, receipt)
            await self._finish(collection, deleted)
            return deleted

        return await once(receipt, recall, work)

    async def _finish(self, collection: Collection, deleted: Iterable[Document]) -> None:
        """Brings decided deletions to their end: hidden in the index, or gone from it."""
        unsettled = {each.document_id: each for each in deleted if each.unsettled}
        hidden = {name: each for name, each in unsettled.items() if not each.purging}

        def settled(found: Mapping[str, Document]) -> Mapping[str, Document]:
            """A push fewer is under way, of those that nobody has changed meanwhile: who has, sees to the index."""
            return {name: pushed(each) for name, each in found.items() if each.etag == hidden[name].etag}

        if hidden:
            await self._index.hide(collection, list(hidden.values()))
            try:
                await self._store.write_documents(collection, list(hidden), settled)
            except CollectionNotFound:
                return  # it went, and took them with it
        await self._writer.purge(collection, [each for each in unsettled.values() if each.purging])


def _not_deleted(document: Document) -> AlreadyExists:
    return AlreadyExists(f"{document.name} is not deleted", document=document.name)
