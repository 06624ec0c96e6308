"""The Index port over IndexService."""

from collections.abc import Iterator, Sequence

import grpc

from ragweave.internal.v1 import index_service_pb2 as pb
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceStub
from services.jobs.adapters.lateness import held_to_turn
from services.jobs.adapters.messages import struct_to
from services.jobs.ports import Collection, DocumentFields, EmbeddedChunk
from services.mesh.convert_times import time_to
from services.mesh.errors import FailedPrecondition

# Well under what one gRPC message may hold; vectors of 384 dimensions and usual chunks come to about 700 KB a call.
_MESSAGE_BYTES = 4 * 2**20


class IndexClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = IndexServiceStub(channel)

    async def upsert(
        self, collection: Collection, document: DocumentFields, revision_key: str, chunks: Sequence[EmbeddedChunk]
    ) -> int:
        revision = 0
        for part in _parts(chunks):
            request = pb.UpsertChunksRequest(
                collection_uid=collection.uid,
                document=_fields_to(document),
                revision_key=revision_key,
                chunks=[_chunk_to(each) for each in part],
            )
            with held_to_turn():
                revision = (await self._stub.UpsertChunks(request)).index_revision
        return revision

    async def retire(
        self, collection: Collection, document_id: str, keep: str, expected_chunks: int, fence: int
    ) -> int:
        request = pb.RetireRevisionsRequest(
            collection_uid=collection.uid,
            document_id=document_id,
            keep_revision_key=keep,
            expected_chunks=expected_chunks,
            fence=fence,
        )
        try:
            with held_to_turn():
                return (await self._stub.RetireRevisions(request)).index_revision
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
                raise FailedPrecondition(f"{document_id}: the index does not hold all of its chunks") from None
            raise

    async def revision(self, collection: Collection) -> int:
        request = pb.GetIndexStatsRequest(collection_uid=collection.uid)
        return (await self._stub.GetIndexStats(request)).index_revision

    async def update_fields(self, collection: Collection, document: DocumentFields) -> int:
        request = pb.UpdateDocumentFieldsRequest(collection_uid=collection.uid, document=_fields_to(document))
        with held_to_turn():
            return (await self._stub.UpdateDocumentFields(request)).index_revision

    async def delete(self, collection: Collection, document_ids: Sequence[str], fence: int) -> int:
        request = pb.DeleteDocumentsRequest(collection_uid=collection.uid, document_ids=document_ids, fence=fence)
        with held_to_turn():
            return (await self._stub.DeleteDocuments(request)).index_revision


def _fields_to(document: DocumentFields) -> pb.DocumentFields:
    return pb.DocumentFields(
        document_id=document.spec.document_id,
        title=document.title,
        source_uri=document.spec.source_uri,
        mime_type=document.mime_type,
        metadata=struct_to(document.spec.metadata),
        principals=document.spec.principals,
        content_hash=document.content_hash,
        revision=document.revision,
        create_time=time_to(document.create_time),
        fence=document.fence,
        generation=document.generation,
    )


def _chunk_to(embedded: EmbeddedChunk) -> pb.IndexChunk:
    chunk = embedded.chunk
    return pb.IndexChunk(
        chunk_id=embedded.id,
        ordinal=chunk.ordinal,
        text=chunk.text,
        context=chunk.context,
        start_offset=chunk.start_offset,
        end_offset=chunk.end_offset,
        token_count=chunk.token_count,
        section=chunk.section,
        page_number=chunk.page or 0,
        vector=embedded.vector,
    )


def _parts(chunks: Sequence[EmbeddedChunk]) -> Iterator[list[EmbeddedChunk]]:
    part: list[EmbeddedChunk] = []
    size = 0
    for each in chunks:
        weight = len(each.vector) + 4 * (len(each.chunk.text) + len(each.chunk.context))
        if part and size + weight > _MESSAGE_BYTES:
            yield part
            part, size = [], 0
        part.append(each)
        size += weight
    if part:
        yield part
