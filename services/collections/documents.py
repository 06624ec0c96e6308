"""The registry of documents: what each collection holds, and that searches see the same."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from ragweave.names import document_id_from
from services.collections.document_changes import (
    NewDocument,
    NewFile,
    after_import,
    as_deleted,
    declared_type,
    document_of,
    parsed_metadata,
    unsettled,
    with_fields,
)
from services.collections.ports import Content, Index, Jobs, RegistryStore
from services.collections.quotas import Quotas
from services.collections.records import (
    CHUNKS,
    DOCUMENTS,
    Chunk,
    Collection,
    Delta,
    Document,
    document_fields,
    new_id,
    readable_by,
)
from services.collections.text import collection_id_of, document_ids_of
from services.mesh.errors import (
    AlreadyExists,
    CollectionDisabled,
    CollectionNotFound,
    DocumentNotFound,
    DocumentTooLarge,
    DomainError,
    EmptyDocument,
    InvalidArgument,
    QuotaExceeded,
    RequestIdReused,
)
from services.mesh.filters import all_of, evaluate, parse
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt, once

_MAX_ORDINAL: Final = 2**31 - 1


class _Overtaken(Exception):
    """Another writer changed the document first; holds it as it now is."""

    def __init__(self, latest: Document) -> None:
        super().__init__(latest.name)
        self.latest = latest


class _StillLeaving(Exception):
    """Documents of these ids were deleted, and their deletion has not ended."""

    def __init__(self, documents: list[Document]) -> None:
        super().__init__([each.name for each in documents])
        self.documents = documents


class Documents:
    """Documents by collection and id.

    The registry says what there is, and the index follows before a change is acknowledged: a deletion is decided in the
    registry and then carried out in both, a change of fields is announced in the registry, made in the index and then
    written. What a crash interrupts is brought to its end by `Upkeep` or by the same request, repeated.

    Args:
        max_upload_bytes: Longest file taken.
    """

    def __init__(
        self, store: RegistryStore, index: Index, jobs: Jobs, quotas: Quotas, *, max_upload_bytes: int
    ) -> None:
        self._store = store
        self._index = index
        self._jobs = jobs
        self._quotas = quotas
        self._max_upload_bytes = max_upload_bytes

    async def create(
        self,
        parent: str,
        new: NewDocument,
        content: Content,
        who: Caller,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> tuple[Document, bytes]:
        """Records a document as PENDING and queues its import; both or neither.

        Returns:
            The document and the job, a serialised ragweave.v1.Job.

        Raises:
            AlreadyExists: The id is taken.
            CollectionNotFound, CollectionDisabled: There is no such collection, or it takes no documents.
            QuotaExceeded: The tenant keeps as much as it may.
            DependencyUnavailable: The jobs service does not answer; nothing is recorded.
        """

        async def recall(receipt: Receipt) -> tuple[Document, bytes] | None:
            answered = await self._store.recall(receipt, tuple[Document, ...])
            if answered is None:
                return None
            return answered[0], await self._jobs.import_document(answered[0], content)

        async def work() -> tuple[Document, bytes]:
            collection = await self._collection(parent, who, writing=True)
            made = document_of(collection, new, content)
            if validate_only:
                await self._check_free(collection, made.document_id)
                await self._quotas.check(who.tenant, Delta.of([None], [made]).amounts)
                return made, await self._jobs.import_document(made, content, validate_only=True)
            return await self._create(collection, made, content, receipt)

        return await once(receipt, recall, work)

    async def upload(
        self,
        file: NewFile,
        parts: AsyncIterator[bytes],
        who: Caller,
        *,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> tuple[Document, bytes]:
        """Stores a file as it comes, never whole in memory, then does as `create` with it.

        Args:
            receipt: Its digest covers `file`; the content is added here.
            validate_only: The file is read and dropped, and there is no job.

        Raises:
            EmptyDocument, DocumentTooLarge: The file has no bytes, or too many.
            QuotaExceeded: The tenant may not keep one more document, or as many bytes; said as soon as it is known.
            InvalidArgument: Its SHA-256 is another than announced.
        """
        collection = await self._collection(file.parent, who, writing=True)
        new = NewDocument(
            document_id=file.document_id or (document_id_from(file.filename) if file.filename else new_id("d")),
            title=file.title,
            source_uri=file.filename,
            mime_type=declared_type(file.content_type),
            metadata=parsed_metadata(file.metadata_json),
        )
        document_of(collection, new, b"")  # refuses now what would be refused after the last byte
        if receipt is None:
            await self._check_free(collection, new.document_id)
        if receipt is None or not await self._came_before(receipt):
            parts = self._quotas.fitting(who.tenant, parts)
        stored = await self._jobs.store(self._bounded(parts, file.sha256), validate_only=validate_only)
        if validate_only:
            return document_of(collection, new, stored), b""
        if receipt:
            receipt = replace(receipt, digest=f"{receipt.digest}:{stored.content_hash}")
        return await self.create(file.parent, new, stored, who, receipt=receipt)

    async def get(self, name: str, who: Caller) -> Document:
        """The document of a name. Raises DocumentNotFound, also where the caller may not find it."""
        collection_id, document_id = document_ids_of(name)
        return await self._find(await self._collection(collection_id, who), document_id, who)

    async def batch_get(self, parent: str, names: Sequence[str], who: Caller) -> tuple[Document, ...]:
        """The documents in the order of the names. Raises DocumentNotFound naming those that are not there."""
        collection = await self._collection(parent, who)
        document_ids = _ids_in(collection.collection_id, names)
        found = {
            document.document_id: document
            for document in await self._store.find_documents(collection, document_ids)
            if _may_read(document, who)
        }
        _check_found(collection, document_ids, found)
        return tuple(found[document_id] for document_id in document_ids)

    async def list(self, parent: str, who: Caller, **asked: Any) -> Page[Document]:
        """A page of the collection's documents that the caller may find; `asked` as `Listing.query` takes it."""
        collection = await self._collection(parent, who)
        query = DOCUMENTS.query(parent=collection.uid, **asked)
        if not _reads_all(who):
            query = replace(query, filter=all_of(query.filter, readable_by(who.principals)))
        return await self._store.list_documents(collection, query)

    async def list_chunks(self, parent: str, who: Caller, **asked: Any) -> tuple[Document, Page[Chunk]]:
        """A page of the document's chunks by ordinal, and the document."""
        document = await self.get(parent, who)
        query = CHUNKS.query(parent=document.uid, **asked)
        first = query.offset if query.cursor is None else min(int(query.cursor[0]) + 1, _MAX_ORDINAL)  # type: ignore[arg-type]  # a number, by CHUNKS' schema
        chunks, total = await self._index.list_chunks(document, first, query.page_size + 1)
        return document, query.page(chunks, total, lambda chunk: {"ordinal": chunk.ordinal})

    async def update(
        self,
        name: str,
        given: Mapping[str, Any],
        paths: Sequence[str],
        who: Caller,
        *,
        etag: str = "",
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Document:
        """The document with the fields of `paths` as in `given`, here and in the index; see `Mask.changes`.

        Raises:
            DocumentNotFound: There is none of that name.
            FailedPrecondition: Its first import has not ended, and would not know of the change.
            EtagMismatch: `etag` is given and is not the current one.
            InvalidArgument: A path or a value is wrong.
            DependencyUnavailable: The index does not answer; nothing has changed.
        """
        collection_id, document_id = document_ids_of(name, field="document.name")

        async def work() -> Document:
            collection = await self._collection(collection_id, who)
            current = await self._find(collection, document_id, who)
            changed = with_fields(current, given, paths, etag)
            if validate_only:
                return changed
            if changed is current:
                kind = tuple[Document, ...]
                return (await self._store.remember(receipt, (current,), kind))[0] if receipt else current
            await self._write(collection, document_id, lambda found: unsettled(_still(current, found)))
            while True:
                await self._index.update_fields(changed)
                try:
                    settled = _settling(current, changed, 1)
                    (written,) = await self._write(collection, document_id, settled, receipt)
                    return written
                except _Overtaken as overtaken:
                    current = overtaken.latest
                try:
                    changed = with_fields(current, given, paths, etag)
                except DomainError:
                    await self.settle(collection, current)
                    raise

        return await once(receipt, self._recall_one, work)

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
        return await self._delete(collection_id, _ids_in(collection_id, names), who, etags, receipt, validate_only)

    async def lookup(self, collection_id: str, document_ids: Sequence[str], who: Caller) -> Sequence[Document]:
        """Those of the documents that exist, for an import."""
        return await self._store.find_documents(await self._collection(collection_id, who), document_ids)

    async def record(self, given: Document, who: Caller, *, again: bool = False) -> Document:
        """Records what an import made of a document; see `RegistryService.RecordDocument`. May be repeated.

        Args:
            again: As `after_import` has it.

        Raises:
            DocumentNotFound: The document that was made again is gone.
            CollectionNotFound: The collection is gone, or is another one of the same id.
            QuotaExceeded: The document is new, or larger than it was, and the tenant may not keep so much.
        """
        collection = await self._collection(given.collection_id, who)
        if collection.uid != given.collection_uid:
            raise CollectionNotFound(f"{collection.name} was deleted and made anew", collection=collection.name)
        (recorded,) = await self._quotas.within(
            who.tenant,
            lambda limits: self._write(
                collection,
                given.document_id,
                lambda found: after_import(given, found.get(given.document_id), again=again),
                limits=limits,
            ),
        )
        if recorded.unsettled:
            await self.settle(collection, recorded)
        return recorded

    async def list_source(
        self, collection_id: str, source_key: str, after: str, limit: int, who: Caller
    ) -> Sequence[str]:
        """Ids of an import source's documents beyond `after`, in order."""
        collection = await self._collection(collection_id, who)
        return await self._store.list_source_documents(collection, source_key, after, limit)

    async def select(
        self, collection_id: str, filter: str, after: str, limit: int, who: Caller, *, count: bool = False
    ) -> tuple[Sequence[Document], int]:
        """Documents that match, beyond the id `after`, in order; and with `count` how many match in all.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        wanted = parse(filter, DOCUMENTS.schema)
        collection = await self._collection(collection_id, who)
        found = await self._store.select_documents(collection, wanted, after, limit)
        return found, await self._store.count_documents(collection, wanted) if count else 0

    async def delete_source(
        self, collection_id: str, document_ids: Sequence[str], who: Caller, *, filter: str = ""
    ) -> int:
        """Deletes those of the documents that exist, and match at this moment; returns how many there were.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        wanted = parse(filter, DOCUMENTS.schema)
        collection = await self._collection(collection_id, who)
        found = await self._store.find_documents(collection, document_ids)
        if not found:
            return 0

        def decide(latest: Mapping[str, Document]) -> Mapping[str, Document]:
            there = [each for each in latest.values() if not each.delete_time]
            return as_deleted([each for each in there if evaluate(wanted, document_fields(each))], {})

        await self._index.stats(collection)  # refuses now what could not be carried out
        left = await self._store.write_documents(collection, [each.document_id for each in found], decide)
        deleted = [each for each in left if each.delete_time]
        await self.finish_deletion(collection, deleted)
        return len(deleted)

    async def finish_deletion(self, collection: Collection, deleted: Iterable[Document]) -> None:
        """Brings decided deletions to their end: index, rows. May be repeated."""
        uids = {document.document_id: document.uid for document in deleted}
        if not uids:
            return

        def remove(found: Mapping[str, Document]) -> Mapping[str, None]:
            return {name: None for name, each in found.items() if each.delete_time and each.uid == uids[name]}

        await self._index.delete_documents(collection, list(uids))
        with suppress(CollectionNotFound):  # it went, and took them with it
            await self._store.write_documents(collection, list(uids), remove)

    async def settle(self, collection: Collection, document: Document, pushes: int = 1) -> None:
        """Makes the index hold the fields that the registry holds, and ends `pushes` that were begun."""
        while True:
            await self._index.update_fields(document)
            try:
                await self._write(collection, document.document_id, _settling(document, document, pushes))
                return
            except _Overtaken as overtaken:
                document = overtaken.latest

    async def _collection(self, parent: str, who: Caller, *, writing: bool = False) -> Collection:
        collection_id = collection_id_of(parent, field="parent")
        collection = await self._store.find_collection(who.tenant, collection_id)
        if collection is None:
            raise CollectionNotFound(f"no collection {collection_id!r}", collection=collection_id)
        if writing and collection.disabled:
            raise CollectionDisabled(f"{collection.name} is disabled", collection=collection.name)
        return collection

    async def _find(self, collection: Collection, document_id: str, who: Caller) -> Document:
        found = await self._store.find_documents(collection, [document_id])
        if not found or not _may_read(found[0], who):
            raise _not_found(collection, [document_id])
        return found[0]

    async def _create(
        self, collection: Collection, made: Document, content: Content, receipt: Receipt | None
    ) -> tuple[Document, bytes]:
        """Records the document and queues its import; both or neither."""
        document = made
        try:
            (document,) = await self._quotas.within(
                collection.tenant,
                lambda limits: self._write(
                    collection, made.document_id, lambda found: _unless_taken(made, found), receipt, limits=limits
                ),
            )
            return document, await self._jobs.import_document(document, content)
        except (AlreadyExists, RequestIdReused, CollectionNotFound, QuotaExceeded):
            raise  # nothing was recorded
        except BaseException:  # cancelled too: a document nobody imports would stay PENDING for ever
            if document.uid == made.uid:
                await asyncio.shield(self._take_back(collection, made, receipt))
            raise

    async def _came_before(self, receipt: Receipt) -> bool:
        """Whether the id is recorded, with a content that is not known yet: what it stands for is counted already."""
        try:
            return await self._store.recall(receipt, tuple[Document, ...]) is not None
        except RequestIdReused:
            return True

    async def _check_free(self, collection: Collection, document_id: str) -> None:
        if found := await self._store.find_documents(collection, [document_id]):
            raise _taken(found[0])

    async def _recall_one(self, receipt: Receipt) -> Document | None:
        answered = await self._store.recall(receipt, tuple[Document, ...])
        return answered[0] if answered else None

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
                leaving = await self._store.find_documents(collection, document_ids, deleted=True)
                await self.finish_deletion(collection, leaving)
            return answered

        async def work() -> tuple[Document, ...]:
            collection = await self._collection(collection_id, who)

            def decide(latest: Mapping[str, Document]) -> Mapping[str, Document]:
                """Those that are leaving already stay as they are: their deletion is only brought to its end."""
                _check_found(collection, document_ids, latest)
                return as_deleted([each for each in latest.values() if not each.delete_time], etag_of)

            if validate_only:
                found = await self._store.find_documents(collection, document_ids)
                decided = decide({each.document_id: each for each in found})
                return tuple(decided[document_id] for document_id in document_ids)
            await self._index.stats(collection)  # refuses now what could not be carried out
            deleted = await self._store.write_documents(collection, document_ids, decide, receipt)
            await self.finish_deletion(collection, deleted)
            return deleted

        return await once(receipt, recall, work)

    async def _write(
        self,
        collection: Collection,
        document_id: str,
        change: Callable[[Mapping[str, Document]], Document],
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> tuple[Document, ...]:
        """Writes one document; a deleted one of the same id is seen off first."""

        def unless_leaving(found: Mapping[str, Document]) -> Mapping[str, Document]:
            if leaving := [each for each in found.values() if each.delete_time]:
                raise _StillLeaving(leaving)
            return {document_id: change(found)}

        while True:
            try:
                return await self._store.write_documents(
                    collection, [document_id], unless_leaving, receipt, limits=limits
                )
            except _StillLeaving as still:
                await self.finish_deletion(collection, still.documents)

    async def _take_back(self, collection: Collection, made: Document, receipt: Receipt | None) -> None:
        """Removes a document whose import could not be queued, unless an import has had it meanwhile."""

        removed: list[str] = []

        def remove(found: Mapping[str, Document]) -> Mapping[str, None]:
            removed[:] = [name for name, each in found.items() if each.uid == made.uid and each.state == "PENDING"]
            return dict.fromkeys(removed)

        with suppress(CollectionNotFound):
            await self._store.write_documents(collection, [made.document_id], remove)
        if receipt and removed:
            await self._store.forget(receipt)

    async def _bounded(self, parts: AsyncIterator[bytes], sha256: str) -> AsyncIterator[bytes]:
        """The parts as they come, held to what was promised of the whole."""
        digest, size = hashlib.sha256(), 0
        async for part in parts:
            size += len(part)
            if size > self._max_upload_bytes:
                raise DocumentTooLarge(
                    f"file: is over the limit of {self._max_upload_bytes} bytes", limit=str(self._max_upload_bytes)
                )
            digest.update(part)
            yield part
        if not size:
            raise EmptyDocument("file: is empty")
        if sha256 and digest.hexdigest() != sha256:
            raise InvalidArgument.of("sha256", f"the file that arrived has {digest.hexdigest()}")


def _unless_taken(made: Document, found: Mapping[str, Document]) -> Document:
    if found:
        raise _taken(made)
    return made


def _taken(document: Document) -> AlreadyExists:
    return AlreadyExists(f"{document.name} exists already", document=document.name)


def _still(current: Document, found: Mapping[str, Document]) -> Document:
    latest = found.get(current.document_id)
    if latest is None or latest.uid != current.uid:
        raise DocumentNotFound(f"no document {current.name!r}", document=current.name)
    return latest


def _settling(current: Document, changed: Document, pushes: int) -> Callable[[Mapping[str, Document]], Document]:
    """Writes `changed`, whose fields the index holds now, unless the document is no longer `current`."""

    def settle(found: Mapping[str, Document]) -> Document:
        latest = _still(current, found)
        if latest.etag != current.etag:
            raise _Overtaken(latest)
        left = max(latest.unsettled - pushes, 0)
        return replace(changed, unsettled=left, unsettled_time=latest.unsettled_time if left else None)

    return settle


def _ids_in(parent_id: str, names: Sequence[str]) -> list[str]:
    document_ids = []
    for position, name in enumerate(names):
        collection_id, document_id = document_ids_of(name, field=f"names[{position}]")
        if collection_id != parent_id:
            raise InvalidArgument.of(f"names[{position}]", f"{name!r} is not in collections/{parent_id}")
        document_ids.append(document_id)
    return document_ids


def _check_found(collection: Collection, wanted: Sequence[str], found: Iterable[str]) -> None:
    there = set(found)
    missing = [document_id for document_id in wanted if document_id not in there]
    if missing:
        raise _not_found(collection, missing)


def _not_found(collection: Collection, document_ids: Sequence[str]) -> DocumentNotFound:
    names = ", ".join(f"{collection.name}/documents/{document_id}" for document_id in document_ids[:5])
    more = f" and {len(document_ids) - 5} more" if len(document_ids) > 5 else ""
    return DocumentNotFound(f"no document {names}{more}", document=f"{collection.name}/documents/{document_ids[0]}")


def _reads_all(who: Caller) -> bool:
    """Who writes documents manages those of others too."""
    return "documents.write" in who.scopes


def _may_read(document: Document, who: Caller) -> bool:
    return _reads_all(who) or not document.principals or not who.principals.isdisjoint(document.principals)
