"""The registry of documents: what each collection holds, and that searches see the same."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from ragweave.names import document_id_from
from services.collections.document_access import check_found, ids_in, may_read, not_found, reads_all
from services.collections.document_changes import (
    NewDocument,
    NewFile,
    after_import,
    can_come_back,
    declared_type,
    document_of,
    in_place_of,
    parsed_metadata,
    unsettled,
    with_fields,
)
from services.collections.document_writer import Change, DocumentWriter, Overtaken, no_document, settling, still
from services.collections.ports import Content, Index, Jobs, RegistryStore
from services.collections.quotas import Quotas
from services.collections.records import (
    CHUNKS,
    DOCUMENTS,
    Chunk,
    Collection,
    Delta,
    Document,
    new_id,
    readable_by,
)
from services.collections.text import document_ids_of
from services.mesh.errors import (
    AlreadyExists,
    CollectionNotFound,
    DocumentNotFound,
    DocumentTooLarge,
    DomainError,
    EmptyDocument,
    InvalidArgument,
    PermissionDenied,
    QuotaExceeded,
    RequestIdReused,
)
from services.mesh.filters import all_of, parse
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.receipts import Receipt, once

_MAX_ORDINAL: Final = 2**31 - 1


class _InTheWay(Exception):
    """A deleted document has the id, and would come back with it."""

    def __init__(self, document: Document) -> None:
        super().__init__(document.name)
        self.document = document


class Documents:
    """Documents by collection and id.

    The registry says what there is, and the index follows before a change is acknowledged: a change of fields is
    announced in the registry, made in the index and then written. What a crash interrupts is brought to its end by
    `Upkeep` or by the same request, repeated. A document that is created or imported under the id of a deleted one
    takes its place: that one cannot come back.

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
        self._writer = DocumentWriter(store, index)

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
            collection = await self._writer.collection(parent, who, writing=True)
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
            InvalidArgument: Its SHA-256 is another than announced; or it is to go on without what that takes.
        """
        _check_offset(file, validate_only)
        collection = await self._writer.collection(file.parent, who, writing=True)
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
            parts = self._quotas.fitting(who.tenant, parts, before=file.offset)
        stored = await self._jobs.store(
            self._bounded(parts, file.offset),
            upload=file.upload,
            offset=file.offset,
            sha256=file.sha256,
            validate_only=validate_only,
        )
        if validate_only:
            return document_of(collection, new, stored), b""
        if receipt:
            receipt = replace(receipt, digest=f"{receipt.digest}:{stored.content_hash}")
        return await self.create(file.parent, new, stored, who, receipt=receipt)

    async def received(self, parent: str, upload: str, who: Caller) -> int:
        """How many bytes have come of an upload that was cut off."""
        await self._writer.collection(parent, who, writing=True)
        return await self._jobs.received(upload)

    async def get(self, name: str, who: Caller) -> Document:
        """The document of a name, a deleted one too where the caller may bring it back.

        Raises:
            DocumentNotFound: There is none, or none for this caller.
        """
        collection_id, document_id = document_ids_of(name)
        collection = await self._writer.collection(collection_id, who)
        try:
            return await self._find(collection, document_id, who)
        except DocumentNotFound:
            if reads_all(who):
                for deleted in await self._store.find_documents(collection, [document_id], deleted=True):
                    if can_come_back(deleted):
                        return deleted
            raise

    async def batch_get(self, parent: str, names: Sequence[str], who: Caller) -> tuple[Document, ...]:
        """The documents in the order of the names. Raises DocumentNotFound naming those that are not there."""
        collection = await self._writer.collection(parent, who)
        document_ids = ids_in(collection.collection_id, names)
        found = {
            document.document_id: document
            for document in await self._store.find_documents(collection, document_ids)
            if may_read(document, who)
        }
        check_found(collection, document_ids, found)
        return tuple(found[document_id] for document_id in document_ids)

    async def list(self, parent: str, who: Caller, *, show_deleted: bool = False, **asked: Any) -> Page[Document]:
        """A page of the collection's documents that the caller may find; `asked` as `Listing.query` takes it.

        Raises:
            PermissionDenied: With `show_deleted`, for who may not bring documents back.
        """
        collection = await self._writer.collection(parent, who)
        query = DOCUMENTS.query(parent=f"{collection.uid} {show_deleted}", **asked)
        if not reads_all(who):
            if show_deleted:
                raise PermissionDenied("show_deleted: deleted documents are for callers with the scope documents.write")
            query = replace(query, filter=all_of(query.filter, readable_by(who.principals)))
        return await self._store.list_documents(collection, query, deleted=show_deleted)

    async def list_chunks(self, parent: str, who: Caller, **asked: Any) -> tuple[Document, Page[Chunk]]:
        """A page of the document's chunks by ordinal, and the document."""
        collection_id, document_id = document_ids_of(parent)
        document = await self._find(await self._writer.collection(collection_id, who), document_id, who)
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
            collection = await self._writer.collection(collection_id, who)
            current = await self._find(collection, document_id, who)
            changed = with_fields(current, given, paths, etag)
            if validate_only:
                return changed
            if changed is current:
                kind = tuple[Document, ...]
                return (await self._store.remember(receipt, (current,), kind))[0] if receipt else current
            latest = await self._writer.write(collection, document_id, lambda found: unsettled(_live(current, found)))
            while True:
                try:
                    changed = with_fields(_live(current, {document_id: latest}), given, paths, etag)
                except DomainError:
                    await self._writer.settle(collection, latest)
                    raise
                await self._index.update_fields(changed)
                try:
                    return await self._writer.write(collection, document_id, settling(latest, changed, 1), receipt)
                except Overtaken as overtaken:
                    latest = overtaken.latest
                    if not latest.unsettled:  # ours was settled together with another's: begun anew, it is seen again
                        latest = await self._writer.begin(collection, latest)

        return await once(receipt, self._recall_one, work)

    async def lookup(self, collection_id: str, document_ids: Sequence[str], who: Caller) -> Sequence[Document]:
        """Those of the documents that exist, for an import."""
        return await self._store.find_documents(await self._writer.collection(collection_id, who), document_ids)

    async def find_contents(self, content_hashes: Iterable[str], who: Caller) -> set[str]:
        """Those of the contents that documents of the caller's tenant have, deleted ones included."""
        return await self._store.find_contents(who.tenant, content_hashes)

    async def record(self, given: Document, who: Caller, *, again: bool = False) -> Document:
        """Records what an import made of a document; see `RegistryService.RecordDocument`. May be repeated.

        Args:
            again: As `after_import` has it.

        Raises:
            DocumentNotFound: The document that was made again is gone.
            CollectionNotFound: The collection is gone, or is another one of the same id.
            QuotaExceeded: The document is new, or larger than it was, and the tenant may not keep so much.
        """
        collection = await self._writer.collection(given.collection_id, who)
        if collection.uid != given.collection_uid:
            raise CollectionNotFound(f"{collection.name} was deleted and made anew", collection=collection.name)

        retired: set[str] = set()

        def recorded(found: Mapping[str, Document]) -> Document:
            current = found.get(given.document_id)
            if again and current is not None and current.delete_time:
                raise no_document(current.name)
            if current is None or not current.delete_time:
                return after_import(given, current, again=again)
            if current.uid in retired and not current.purging:
                return in_place_of(current, given)
            raise _InTheWay(current)

        async def clear(deleted: Document) -> None:
            """Of a document that is replaced, nothing but the new chunks may be left when these are shown."""
            if given.state == "ACTIVE" and not deleted.purging:
                await self._index.retire(deleted, given.revision_key)
                retired.add(deleted.uid)
            else:
                await self._writer.purge(collection, [deleted])

        document = await self._record(collection, given.document_id, recorded, clear)
        if document.unsettled:
            await self._writer.settle(collection, document)
        return document

    async def list_source(
        self, collection_id: str, source_key: str, after: str, limit: int, who: Caller
    ) -> Sequence[str]:
        """Ids of an import source's documents beyond `after`, in order."""
        collection = await self._writer.collection(collection_id, who)
        return await self._store.list_source_documents(collection, source_key, after, limit)

    async def select(
        self, collection_id: str, filter: str, after: str, limit: int, who: Caller, *, count: bool = False
    ) -> tuple[Sequence[Document], int]:
        """Documents that match, beyond the id `after`, in order; and with `count` how many match in all.

        Raises:
            InvalidFilter: The filter does not parse.
        """
        wanted = parse(filter, DOCUMENTS.schema)
        collection = await self._writer.collection(collection_id, who)
        found = await self._store.select_documents(collection, wanted, after, limit)
        return found, await self._store.count_documents(collection, wanted) if count else 0

    async def _record(
        self,
        collection: Collection,
        document_id: str,
        change: Change,
        clear: Callable[[Document], Awaitable[None]],
        receipt: Receipt | None = None,
    ) -> Document:
        """Writes a document within the tenant's quota, once a deleted one has been cleared out of its way."""
        while True:
            try:
                return await self._quotas.within(
                    collection.tenant,
                    lambda limits: self._writer.write(collection, document_id, change, receipt, limits=limits),
                )
            except _InTheWay as deleted:
                await clear(deleted.document)

    async def _find(self, collection: Collection, document_id: str, who: Caller) -> Document:
        found = await self._store.find_documents(collection, [document_id])
        if not found or not may_read(found[0], who):
            raise not_found(collection, [document_id])
        return found[0]

    async def _create(
        self, collection: Collection, made: Document, content: Content, receipt: Receipt | None
    ) -> tuple[Document, bytes]:
        """Records the document and queues its import; both or neither."""
        document = made
        try:
            document = await self._record(
                collection,
                made.document_id,
                lambda found: _unless_taken(made, found),
                lambda deleted: self._writer.purge(collection, [deleted]),
                receipt,
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

    async def _bounded(self, parts: AsyncIterator[bytes], size: int) -> AsyncIterator[bytes]:
        """The parts as they come after `size` bytes, held to the limit."""
        async for part in parts:
            size += len(part)
            if size > self._max_upload_bytes:
                raise DocumentTooLarge(
                    f"file: is over the limit of {self._max_upload_bytes} bytes", limit=str(self._max_upload_bytes)
                )
            yield part
        if not size:
            raise EmptyDocument("file: is empty")


def _check_offset(file: NewFile, validate_only: bool) -> None:
    if not file.offset:
        return
    if validate_only:
        raise InvalidArgument.of("offset", "is not for validate_only, which keeps nothing to go on with")
    if not file.upload:
        raise InvalidArgument.of("request_id", "is required with an offset: it says which upload goes on")
    if not file.sha256:
        raise InvalidArgument.of("sha256", "is required with an offset: it vouches for what came before")


def _unless_taken(made: Document, found: Mapping[str, Document]) -> Document:
    if current := found.get(made.document_id):
        raise _InTheWay(current) if current.delete_time else _taken(made)
    return made


def _live(current: Document, found: Mapping[str, Document]) -> Document:
    """The same document as it now is. Raises DocumentNotFound where it was deleted."""
    latest = still(current, found)
    if latest.delete_time:
        raise no_document(latest.name)
    return latest


def _taken(document: Document) -> AlreadyExists:
    return AlreadyExists(f"{document.name} exists already", document=document.name)
