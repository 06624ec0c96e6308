"""The index, as the retrieval service keeps it."""

from collections.abc import Sequence

import grpc

from ragweave.internal.v1 import index_service_pb2 as pb
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceStub
from services.collections.adapters.grpc_errors import answering, passing_over_the_missing
from services.collections.convert import chunk_from, fields_to, record_to
from services.collections.ports import IndexStats
from services.collections.records import Chunk, Collection, Document


class RetrievalIndex:
    """Fulfils Index. A collection nothing was ever written to has no index, which is no error here."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = IndexServiceStub(channel)

    async def apply(self, collection: Collection) -> None:
        with answering("retrieval"):
            await self._service.ApplyCollection(pb.ApplyCollectionRequest(record=record_to(collection)))

    async def drop(self, collection: Collection) -> None:
        with answering("retrieval"), passing_over_the_missing():
            await self._service.DropIndex(pb.DropIndexRequest(collection_uid=collection.uid))

    async def stats(self, collection: Collection) -> IndexStats:
        with answering("retrieval"), passing_over_the_missing():
            found = await self._service.GetIndexStats(pb.GetIndexStatsRequest(collection_uid=collection.uid))
            return IndexStats(found.chunks, found.indexed_chunks)
        return IndexStats(0, 0)

    async def hide(self, collection: Collection, documents: Sequence[Document]) -> None:
        hidden = [
            pb.HideDocumentsRequest.Hidden(document_id=each.document_id, generation=each.generation)
            for each in documents
        ]
        with answering("retrieval"), passing_over_the_missing():
            await self._service.HideDocuments(pb.HideDocumentsRequest(collection_uid=collection.uid, documents=hidden))

    async def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> None:
        request = pb.DeleteDocumentsRequest(collection_uid=collection.uid, document_ids=document_ids)
        with answering("retrieval"), passing_over_the_missing():
            await self._service.DeleteDocuments(request)

    async def retire(self, document: Document, keep_revision_key: str) -> None:
        request = pb.RetireRevisionsRequest(
            collection_uid=document.collection_uid,
            document_id=document.document_id,
            keep_revision_key=keep_revision_key,
        )
        with answering("retrieval"), passing_over_the_missing():
            await self._service.RetireRevisions(request)

    async def update_fields(self, document: Document) -> None:
        request = pb.UpdateDocumentFieldsRequest(collection_uid=document.collection_uid, document=fields_to(document))
        with answering("retrieval"), passing_over_the_missing():
            await self._service.UpdateDocumentFields(request)

    async def list_chunks(self, document: Document, from_ordinal: int, limit: int) -> tuple[list[Chunk], int]:
        request = pb.ListChunksRequest(
            collection_uid=document.collection_uid,
            document_id=document.document_id,
            from_ordinal=from_ordinal,
            limit=limit,
        )
        with answering("retrieval"), passing_over_the_missing():
            found = await self._service.ListChunks(request)
            return [chunk_from(chunk) for chunk in found.chunks], found.total_size
        return [], 0
