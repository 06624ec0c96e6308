"""Between the contract's messages and the domain."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from ragweave.internal.v1 import index_service_pb2, registry_service_pb2
from ragweave.v1 import (
    chunk_pb2,
    collection_pb2,
    collection_service_pb2,
    document_pb2,
    document_service_pb2,
    job_pb2,
    search_pb2,
)
from services.collections.document_changes import NewDocument, NewFile
from services.collections.ports import Content, IndexStats
from services.collections.records import (
    Change,
    Chunk,
    Chunking,
    Collection,
    Document,
    DocumentTotals,
    Fusion,
    Rerank,
    SearchDefaults,
    Source,
)
from services.collections.registry import Followed
from services.mesh.convert_times import time_from, time_to
from services.mesh.identity import Caller
from services.mesh.lists import Page
from services.mesh.receipts import Receipt, receipt_from


def upload_receipt_from(first: document_service_pb2.UploadDocumentRequest, who: Caller) -> Receipt | None:
    """As `receipt_from`, whatever part of the file the call carries."""
    named = document_service_pb2.UploadDocumentRequest()
    named.CopyFrom(first)
    named.file.ClearField("data")
    named.ClearField("offset")
    return receipt_from(named, who)


def asked_from(request: Any) -> Mapping[str, Any]:
    """The paging fields of a List request, as `Listing.query` takes them."""
    return {
        name: getattr(request, name)
        for name in ("page_size", "page_token", "page", "filter", "order_by", "show_deleted")
        if name in request.DESCRIPTOR.fields_by_name
    }


def given_from(collection: collection_pb2.Collection) -> dict[str, Any]:
    """The fields that the message sets, by name, as the domain has them."""
    given: dict[str, Any] = {field.name: value for field, value in collection.ListFields()}
    for name, convert in _COLLECTION_FIELDS.items():
        if name in given:
            given[name] = convert(given[name])
    return given


def collection_to(collection: Collection) -> collection_pb2.Collection:
    message = _without_counts(collection)
    message.revision = collection.revision
    message.document_count = collection.document_count
    message.chunk_count = collection.chunk_count
    return message


def collections_to(page: Page[Collection]) -> collection_service_pb2.ListCollectionsResponse:
    return collection_service_pb2.ListCollectionsResponse(
        collections=map(collection_to, page.items),
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def stats_to(collection: Collection, totals: DocumentTotals, index: IndexStats) -> collection_pb2.CollectionStats:
    return collection_pb2.CollectionStats(
        name=collection.name,
        active_documents=totals.active,
        pending_documents=totals.pending,
        failed_documents=totals.failed,
        chunks=(found := max(0, index.chunks - totals.hidden_chunks)),
        indexed_chunks=min(index.indexed_chunks, found),
        tokens=totals.tokens,
        size_bytes=totals.size_bytes,
        revision=collection.revision,
        last_write_time=time_to(totals.last_write_time),
    )


def record_to(collection: Collection) -> registry_service_pb2.CollectionRecord:
    return registry_service_pb2.CollectionRecord(
        tenant=collection.tenant,
        collection=_without_counts(collection),
        dimension=collection.dimension,
        sequence=collection.sequence,
        deleted=collection.delete_time is not None,
    )


def followed_to(followed: Followed) -> registry_service_pb2.WatchCollectionsResponse:
    return registry_service_pb2.WatchCollectionsResponse(
        records=map(record_to, followed.collections), snapshot_complete=followed.complete
    )


def changes_to(followed: Sequence[Change] | int) -> registry_service_pb2.WatchCollectionChangesResponse:
    if isinstance(followed, int):
        return registry_service_pb2.WatchCollectionChangesResponse(last_sequence=followed)
    return registry_service_pb2.WatchCollectionChangesResponse(
        changes=[
            registry_service_pb2.CollectionChange(
                kind=change.kind, event_time=time_to(change.time), record=record_to(change.collection)
            )
            for change in followed
        ]
    )


def new_document_from(request: document_service_pb2.CreateDocumentRequest) -> tuple[NewDocument, Content]:
    described = request.document
    new = NewDocument(
        document_id=request.document_id,
        title=described.title,
        source_uri=described.source_uri,
        mime_type=described.mime_type,
        metadata=metadata_from(described.metadata),
        principals=tuple(described.acl.principals),
    )
    return new, request.text if request.WhichOneof("content") == "text" else request.data


def new_file_from(first: document_service_pb2.UploadDocumentRequest) -> NewFile:
    return NewFile(
        parent=first.parent,
        document_id=first.document_id,
        filename=first.filename,
        title=first.title,
        content_type=first.file.content_type,
        metadata_json=first.metadata_json,
        sha256=first.sha256,
        upload="" if first.validate_only else first.request_id,
        offset=first.offset,
    )


async def parts_from(
    first: document_service_pb2.UploadDocumentRequest,
    rest: AsyncIterator[document_service_pb2.UploadDocumentRequest],
) -> AsyncIterator[bytes]:
    """The bytes of the file as they come."""
    if first.file.data:
        yield first.file.data
    async for request in rest:
        if request.file.data:
            yield request.file.data


def fields_from(document: document_pb2.Document) -> dict[str, Any]:
    """The fields that the message sets, by name, as `Documents.update` takes them."""
    given: dict[str, Any] = {field.name: value for field, value in document.ListFields()}
    if "metadata" in given:
        given["metadata"] = metadata_from(document.metadata)
    if "acl" in given:
        given["acl"] = tuple(document.acl.principals)
    return given


def document_to(document: Document) -> document_pb2.Document:
    message = document_pb2.Document(
        name=document.name,
        uid=document.uid,
        title=document.title,
        source_uri=document.source_uri,
        mime_type=document.mime_type,
        content_hash=document.content_hash,
        size_bytes=document.size_bytes,
        chunk_count=document.chunk_count,
        token_count=document.token_count,
        state=document_pb2.Document.State.Value("DELETED" if document.delete_time else document.state),
        revision=document.revision,
        create_time=time_to(document.create_time),
        update_time=time_to(document.update_time),
        delete_time=time_to(document.delete_time),
        purge_time=time_to(document.purge_time),
        etag=document.etag,
    )
    _describe(message, document)
    if document.error:
        message.error.ParseFromString(document.error)
    return message


def documents_to(page: Page[Document]) -> document_service_pb2.ListDocumentsResponse:
    return document_service_pb2.ListDocumentsResponse(
        documents=map(document_to, page.items), next_page_token=page.next_page_token, total_size=page.total_size
    )


def created_to(created: tuple[Document, bytes]) -> document_service_pb2.CreateDocumentResponse:
    document, job = created
    return document_service_pb2.CreateDocumentResponse(document=document_to(document), job=job_pb2.Job.FromString(job))


def uploaded_to(created: tuple[Document, bytes]) -> document_service_pb2.UploadDocumentResponse:
    document, job = created
    message = document_service_pb2.UploadDocumentResponse(document=document_to(document))
    if job:
        message.job.ParseFromString(job)
    return message


def described_to(document: Document) -> document_pb2.Document:
    """What an import is told of a document."""
    message = document_pb2.Document(title=document.title, source_uri=document.source_uri, mime_type=document.mime_type)
    _describe(message, document)
    return message


def document_record_to(document: Document) -> registry_service_pb2.DocumentRecord:
    return registry_service_pb2.DocumentRecord(
        document_id=document.document_id,
        state=document_pb2.Document.State.Value(document.state),
        content_hash=document.content_hash,
        revision_key=document.revision_key,
        fields_hash=document.fields_hash,
        revision=document.revision,
        document=document_to(document),
        source_key=document.source_key,
        origin=document.origin,
        generation=document.generation,
    )


def recorded_from(request: registry_service_pb2.RecordDocumentRequest) -> Document:
    """What an import made of a document; what only the registry knows is filled in there."""
    given = request.document
    return Document(
        collection_uid=request.collection_uid,
        collection_id=request.collection_id,
        document_id=request.document_id,
        uid=request.document_uid,
        state=document_pb2.Document.State.Name(given.state),
        create_time=datetime.min,
        update_time=datetime.min,
        etag="",
        title=given.title,
        source_uri=given.source_uri,
        mime_type=given.mime_type,
        metadata=metadata_from(given.metadata),
        principals=tuple(given.acl.principals),
        content_hash=given.content_hash,
        size_bytes=given.size_bytes,
        chunk_count=given.chunk_count,
        token_count=given.token_count,
        error=given.error.SerializeToString() if given.HasField("error") else b"",
        revision=given.revision,
        revision_key=request.revision_key,
        fields_hash=request.fields_hash,
        source_key=request.source_key,
        fence=request.fence,
        origin=request.origin,
    )


def fields_to(document: Document) -> index_service_pb2.DocumentFields:
    message = index_service_pb2.DocumentFields(
        document_id=document.document_id,
        title=document.title,
        source_uri=document.source_uri,
        mime_type=document.mime_type,
        principals=document.principals,
        content_hash=document.content_hash,
        revision=document.revision,
        create_time=time_to(document.create_time),
        generation=document.generation,
    )
    message.metadata.update(document.metadata)
    return message


def chunk_from(chunk: index_service_pb2.IndexChunk) -> Chunk:
    return Chunk(
        chunk_id=chunk.chunk_id,
        ordinal=chunk.ordinal,
        text=chunk.text,
        start_offset=chunk.start_offset,
        end_offset=chunk.end_offset,
        token_count=chunk.token_count,
        section=chunk.section,
        page_number=chunk.page_number,
        context=chunk.context,
    )


def chunks_to(document: Document, page: Page[Chunk]) -> document_service_pb2.ListChunksResponse:
    chunks = [
        chunk_pb2.Chunk(
            name=f"{document.name}/chunks/{chunk.chunk_id}",
            ordinal=chunk.ordinal,
            text=chunk.text,
            start_offset=chunk.start_offset,
            end_offset=chunk.end_offset,
            token_count=chunk.token_count,
            section=chunk.section,
            page_number=chunk.page_number,
            revision=document.revision,
            context=chunk.context,
        )
        for chunk in page.items
    ]
    return document_service_pb2.ListChunksResponse(
        chunks=chunks, next_page_token=page.next_page_token, total_size=page.total_size
    )


def metadata_from(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON would have it; numbers stay doubles, infinite ones too, for the domain to refuse."""
    return {key: _plain(value) for key, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return metadata_from(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)


def _without_counts(collection: Collection) -> collection_pb2.Collection:
    message = collection_pb2.Collection(
        name=collection.name,
        uid=collection.uid,
        description=collection.description,
        labels=collection.labels,
        embedding_model=collection.embedding_model,
        language=collection.language,
        chunking=collection_pb2.Collection.Chunking(
            strategy=collection_pb2.Collection.Chunking.Strategy.Value(collection.chunking.strategy),
            max_tokens=collection.chunking.max_tokens,
            overlap_tokens=collection.chunking.overlap_tokens,
        ),
        disabled=collection.disabled,
        visibility=collection_pb2.Collection.Visibility.Value(collection.visibility),
        create_time=time_to(collection.create_time),
        update_time=time_to(collection.update_time),
        delete_time=time_to(collection.delete_time),
        purge_time=time_to(collection.purge_time),
        expire_time=time_to(collection.expire_time),
        etag=collection.etag,
    )
    if collection.source:
        message.source.CopyFrom(_source_to(collection.source))
    if collection.default_search:
        message.default_search.CopyFrom(_defaults_to(collection.default_search))
    return message


def _chunking_from(message: collection_pb2.Collection.Chunking) -> Chunking:
    strategy = collection_pb2.Collection.Chunking.Strategy.Name(message.strategy) if message.strategy else "STRUCTURE"
    return Chunking(strategy, message.max_tokens, message.overlap_tokens)


def _source_to(source: Source) -> collection_pb2.Collection.Source:
    return collection_pb2.Collection.Source(
        directory=source.directory,
        include_globs=source.include_globs,
        exclude_globs=source.exclude_globs,
        auto_sync=source.auto_sync,
    )


def _source_from(message: collection_pb2.Collection.Source) -> Source:
    return Source(message.directory, tuple(message.include_globs), tuple(message.exclude_globs), message.auto_sync)


def _defaults_to(defaults: SearchDefaults) -> collection_pb2.SearchDefaults:
    message = collection_pb2.SearchDefaults(
        top_k=defaults.top_k,
        mode=search_pb2.SearchRequest.Mode.Value(defaults.mode or "MODE_UNSPECIFIED"),
        min_score=defaults.min_score,
    )
    if defaults.fusion and defaults.fusion.method == "RRF":
        fusion = defaults.fusion
        message.fusion.rrf.CopyFrom(
            search_pb2.Fusion.Rrf(k=fusion.k, dense_weight=fusion.dense_weight, sparse_weight=fusion.sparse_weight)
        )
    elif defaults.fusion:
        message.fusion.dbsf.SetInParent()
    if defaults.rerank:
        rerank = search_pb2.SearchRequest.Rerank(model=defaults.rerank.model, top_n=defaults.rerank.top_n)
        message.rerank.CopyFrom(rerank)
    return message


def _defaults_from(message: collection_pb2.SearchDefaults) -> SearchDefaults:
    fusion = None
    match message.fusion.WhichOneof("method"):
        case "rrf":
            rrf = message.fusion.rrf
            fusion = Fusion("RRF", rrf.k, rrf.dense_weight, rrf.sparse_weight)
        case "dbsf":
            fusion = Fusion("DBSF")
    mode = search_pb2.SearchRequest.Mode.Name(message.mode) if message.mode else ""
    rerank = Rerank(message.rerank.model, message.rerank.top_n) if message.HasField("rerank") else None
    return SearchDefaults(message.top_k, mode, fusion, message.min_score, rerank)


_COLLECTION_FIELDS: Mapping[str, Any] = {
    "labels": dict,
    "chunking": _chunking_from,
    "source": _source_from,
    "visibility": collection_pb2.Collection.Visibility.Name,
    "default_search": _defaults_from,
    "expire_time": lambda message: time_from(message, "collection.expire_time"),
    "ttl": lambda message: message.ToTimedelta(),
}


def _describe(message: document_pb2.Document, document: Document) -> None:
    """Sets metadata and acl, where there are any."""
    if document.metadata:
        message.metadata.update(document.metadata)
    if document.principals:
        message.acl.principals.extend(document.principals)
