"""The Registry port over RegistryService."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
from google.protobuf.json_format import MessageToDict

from ragweave.internal.v1 import registry_service_pb2 as pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from ragweave.v1 import collection_pb2
from ragweave.v1.document_pb2 import Document
from services.jobs.adapters.lateness import held_to_turn
from services.jobs.adapters.messages import principals_to, status_to, struct_to
from services.jobs.chunker import Strategy
from services.jobs.job import DirectoryImport
from services.jobs.ports import Collection, ImportedDocument, KnownDocument
from services.mesh.convert_times import time_from
from services.mesh.errors import CollectionNotFound, DocumentNotFound, QuotaExceeded
from services.mesh.identity import caller
from services.mesh.quotas import Amounts, amounts_to
from services.mesh.status import reason_of, status_of

# A worker asks once a document; what it learns is this old at most.
_FRESH_S = 2.0
_REMEMBERED = 256


class RegistryClient:
    """Remembers collections for a moment, for who knows which one it means."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = RegistryServiceStub(channel)
        self._collections: dict[tuple[str, str], tuple[float, Collection]] = {}

    async def collection(self, collection_id: str, uid: str = "") -> Collection:
        key = caller().tenant, collection_id
        asked, known = self._collections.get(key, (0.0, None))
        if known is not None and uid == known.uid and time.monotonic() - asked < _FRESH_S:
            return known
        try:
            record = await self._stub.GetCollectionRecord(pb.GetCollectionRecordRequest(collection_id=collection_id))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise CollectionNotFound(f"collections/{collection_id} does not exist") from None
            raise
        if record.deleted:
            raise CollectionNotFound(f"collections/{collection_id} does not exist")
        if len(self._collections) >= _REMEMBERED:
            self._collections.clear()
        found = _collection_from(record)
        self._collections[key] = time.monotonic(), found
        return found

    async def lookup(self, collection_id: str, document_ids: Sequence[str]) -> dict[str, KnownDocument]:
        request = pb.LookupDocumentsRequest(collection_id=collection_id, document_ids=document_ids)
        found = await self._stub.LookupDocuments(request)
        return {record.document_id: _known_from(record) for record in found.documents}

    async def select(self, collection_id: str, filter: str, after: str, limit: int) -> list[KnownDocument]:
        request = pb.SelectDocumentsRequest(
            collection_id=collection_id, filter=filter, after_document_id=after, limit=limit
        )
        return [_known_from(record) for record in (await self._stub.SelectDocuments(request)).documents]

    async def count(self, collection_id: str, filter: str) -> int:
        request = pb.SelectDocumentsRequest(collection_id=collection_id, filter=filter, limit=1, count=True)
        return int((await self._stub.SelectDocuments(request)).total_size)

    async def check_quota(self, more: Amounts) -> None:
        with _refused():
            await self._stub.CheckQuota(pb.CheckQuotaRequest(more=amounts_to(more)))

    async def record(self, collection: Collection, document: ImportedDocument) -> None:
        request = pb.RecordDocumentRequest(
            collection_id=collection.id,
            collection_uid=collection.uid,
            document_id=document.fields.spec.document_id,
            document=_document_to(document),
            revision_key=document.revision_key,
            fields_hash=document.fields_hash,
            source_key=document.source_key,
            fence=document.fields.fence,
            origin=document.origin,
            document_uid=document.document_uid,
        )
        with _refused(), held_to_turn():
            await self._stub.RecordDocument(request)

    async def source_documents(self, collection_id: str, source_key: str, after: str, limit: int) -> list[str]:
        request = pb.ListSourceDocumentsRequest(
            collection_id=collection_id, source_key=source_key, after_document_id=after, limit=limit
        )
        return list((await self._stub.ListSourceDocuments(request)).document_ids)

    async def needed(self, content_hashes: Sequence[str]) -> set[str]:
        found = await self._stub.FindContents(pb.FindContentsRequest(content_hashes=content_hashes))
        return set(found.content_hashes)

    async def delete_documents(self, collection_id: str, document_ids: Sequence[str], *, filter: str = "") -> int:
        request = pb.DeleteSourceDocumentsRequest(collection_id=collection_id, document_ids=document_ids, filter=filter)
        return int((await self._stub.DeleteSourceDocuments(request)).deleted)


@contextmanager
def _refused() -> Iterator[None]:
    """Tells a quota that is used up, which lasts, from a service that is full, which does not; and what is gone."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        status = status_of(error)
        match reason_of(status):
            case QuotaExceeded.reason:
                raise QuotaExceeded(status.message, subject=f"tenants/{caller().tenant}") from None
            case DocumentNotFound.reason:
                raise DocumentNotFound(status.message) from None
        raise


def _collection_from(record: pb.CollectionRecord) -> Collection:
    collection = record.collection
    chunking = collection.chunking
    fixed = chunking.strategy == collection_pb2.Collection.Chunking.FIXED
    return Collection(
        id=collection.name.rpartition("/")[2],
        uid=collection.uid,
        embedding_model=collection.embedding_model,
        dimension=record.dimension,
        disabled=collection.disabled,
        strategy=Strategy.FIXED if fixed else Strategy.STRUCTURE,
        max_tokens=chunking.max_tokens,
        overlap_tokens=chunking.overlap_tokens,
        source=directory_from(collection.source),
    )


def directory_from(source: collection_pb2.Collection.Source) -> DirectoryImport | None:
    """The directory a collection is bound to; None where it is bound to none."""
    if not source.directory:
        return None
    return DirectoryImport("", source.directory, tuple(source.include_globs), tuple(source.exclude_globs))


def _known_from(record: pb.DocumentRecord) -> KnownDocument:
    document = record.document
    return KnownDocument(
        active=record.state == Document.ACTIVE,
        content_hash=record.content_hash,
        revision_key=record.revision_key,
        fields_hash=record.fields_hash,
        revision=record.revision,
        title=document.title,
        mime_type=document.mime_type,
        chunk_count=document.chunk_count,
        token_count=document.token_count,
        size_bytes=document.size_bytes,
        create_time=time_from(document.create_time, "create_time") if document.HasField("create_time") else None,
        document_id=record.document_id,
        uid=document.uid,
        pending=record.state == Document.PENDING,
        source_uri=document.source_uri,
        metadata=MessageToDict(document.metadata),
        principals=tuple(document.acl.principals),
        source_key=record.source_key,
        origin=record.origin,
        generation=record.generation,
    )


def _document_to(document: ImportedDocument) -> Document:
    fields = document.fields
    return Document(
        title=fields.title,
        source_uri=fields.spec.source_uri,
        mime_type=fields.mime_type,
        content_hash=fields.content_hash,
        metadata=struct_to(fields.spec.metadata),
        acl=principals_to(fields.spec.principals),
        size_bytes=document.size_bytes,
        chunk_count=document.chunk_count,
        token_count=document.token_count,
        revision=fields.revision,
        state=Document.FAILED if document.failure else Document.ACTIVE,
        error=status_to(document.failure) if document.failure else None,
    )
