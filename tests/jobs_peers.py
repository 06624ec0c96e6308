"""The services that jobs call, as real gRPC servers over the in-memory ports."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from tokenizers import Tokenizer, models, pre_tokenizers

from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1 import index_service_pb2_grpc as index_grpc
from ragweave.internal.v1 import registry_service_pb2 as registry_pb
from ragweave.internal.v1 import registry_service_pb2_grpc as registry_grpc
from ragweave.internal.v1 import tokenizer_service_pb2 as tokenizer_pb
from ragweave.internal.v1 import tokenizer_service_pb2_grpc as tokenizer_grpc
from ragweave.v1 import embedding_service_pb2 as embedding_pb
from ragweave.v1 import embedding_service_pb2_grpc as embedding_grpc
from ragweave.v1.collection_pb2 import Collection
from ragweave.v1.document_pb2 import Document
from services.mesh.errors import CollectionNotFound, FailedPrecondition
from services.mesh.filters import Field, FieldType, Schema, evaluate, parse
from services.mesh.identity import caller
from services.mesh.quotas import Amounts, amounts_from, check_quota
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from tests.mesh.harness import World

DIMENSION = 4
MODEL_REVISION = "r1"
_FILTERED_BY = Schema({"title": Field(FieldType.STRING)})


@dataclass
class Peers(
    registry_grpc.RegistryServiceServicer,
    index_grpc.IndexServiceServicer,
    embedding_grpc.EmbeddingServiceServicer,
    tokenizer_grpc.TokenizerServiceServicer,
):
    """Registry, index and embedding in one server; `collections` by tenant and id."""

    collections: dict[tuple[str, str], Collection] = field(default_factory=dict)
    documents: dict[tuple[str, str, str], registry_pb.RecordDocumentRequest] = field(default_factory=dict)
    chunks: dict[tuple[str, str, str], tuple[str, index_pb.IndexChunk, index_pb.DocumentFields]] = field(
        default_factory=dict
    )
    changes: list[registry_pb.CollectionChange] = field(default_factory=list)
    embedded: list[str] = field(default_factory=list)
    callers: set[tuple[str, str, str | None]] = field(default_factory=set)
    writes: int = 0
    limits: Amounts = field(default_factory=lambda: Amounts(1_000, 1_000, 1_000_000, 2**40))

    @asynccontextmanager
    async def running(self, world: World, port: int = 0) -> AsyncIterator[int]:
        @asynccontextmanager
        async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
            def register(server: grpc.aio.Server) -> None:
                registry_grpc.add_RegistryServiceServicer_to_server(self, server)
                index_grpc.add_IndexServiceServicer_to_server(self, server)
                embedding_grpc.add_EmbeddingServiceServicer_to_server(self, server)
                tokenizer_grpc.add_TokenizerServiceServicer_to_server(self, server)

            yield Wiring(register)

        async with world.running(wire, world.settings(port), name="peers") as listening:
            yield listening

    def add(self, tenant: str, collection_id: str, **fields: Any) -> None:
        self.collections[tenant, collection_id] = Collection(
            name=f"collections/{collection_id}", uid=f"uid-{tenant}-{collection_id}", **fields
        )

    def _found(self, collection_id: str) -> Collection:
        who = caller()
        self.callers.add((who.tenant, who.subject, who.service))
        if (who.tenant, collection_id) not in self.collections:
            raise CollectionNotFound(f"collections/{collection_id} does not exist")
        return self.collections[who.tenant, collection_id]

    async def GetCollectionRecord(self, request: Any, context: Any) -> registry_pb.CollectionRecord:
        found = self._found(request.collection_id)
        return registry_pb.CollectionRecord(tenant=caller().tenant, collection=found, dimension=DIMENSION)

    async def WatchCollectionChanges(
        self, request: Any, context: Any
    ) -> AsyncIterator[registry_pb.WatchCollectionChangesResponse]:
        """Those there are; whoever wants more asks again."""
        yield registry_pb.WatchCollectionChangesResponse(last_sequence=len(self.changes))
        yield registry_pb.WatchCollectionChangesResponse(changes=self.changes[request.after_sequence :])

    def changed(self, kind: str, tenant: str, collection_id: str) -> None:
        """One more change of a collection, for followers."""
        record = registry_pb.CollectionRecord(
            tenant=tenant, collection=self.collections[tenant, collection_id], sequence=len(self.changes) + 1
        )
        change = registry_pb.CollectionChange(kind=kind, record=record)
        change.event_time.GetCurrentTime()
        self.changes.append(change)

    async def LookupDocuments(self, request: Any, context: Any) -> registry_pb.LookupDocumentsResponse:
        self._found(request.collection_id)
        known = [self.documents.get((caller().tenant, request.collection_id, each)) for each in request.document_ids]
        return registry_pb.LookupDocumentsResponse(documents=[_record_of(each) for each in known if each is not None])

    async def SelectDocuments(self, request: Any, context: Any) -> registry_pb.SelectDocumentsResponse:
        """Those whose title the filter names, such as `title = "a"`; all without one."""
        self._found(request.collection_id)
        of = caller().tenant, request.collection_id
        known = [self.documents[key] for key in sorted(self.documents) if key[:2] == of]
        found = [each for each in known if _matches(request.filter, each)]
        beyond = [_record_of(each) for each in found if each.document_id > request.after_document_id]
        return registry_pb.SelectDocumentsResponse(documents=beyond[: request.limit], total_size=len(found))

    async def RecordDocument(self, request: Any, context: Any) -> registry_pb.RecordDocumentResponse:
        self._found(request.collection_id)
        key = caller().tenant, request.collection_id, request.document_id
        if request.document.state != Document.FAILED or key not in self.documents:
            request.document.uid = f"uid-{request.document_id}"
            self.documents[key] = request
        return registry_pb.RecordDocumentResponse(document=request.document)

    async def CheckQuota(self, request: Any, context: Any) -> registry_pb.CheckQuotaResponse:
        used = Amounts(documents=sum(tenant == caller().tenant for tenant, _, _ in self.documents))
        check_quota(caller().tenant, limits=self.limits, usage=used, more=amounts_from(request.more))
        return registry_pb.CheckQuotaResponse()

    async def ListSourceDocuments(self, request: Any, context: Any) -> registry_pb.ListSourceDocumentsResponse:
        ids = sorted(id for (_, _, id), known in self.documents.items() if known.source_key == request.source_key)
        after = [id for id in ids if id > request.after_document_id]
        return registry_pb.ListSourceDocumentsResponse(document_ids=after[: request.limit])

    async def DeleteSourceDocuments(self, request: Any, context: Any) -> registry_pb.DeleteSourceDocumentsResponse:
        gone = [
            key
            for each in request.document_ids
            if (key := (caller().tenant, request.collection_id, each)) in self.documents
            and _matches(request.filter, self.documents[key])
        ]
        for key in gone:
            del self.documents[key]
        return registry_pb.DeleteSourceDocumentsResponse(deleted=len(gone))

    async def UpsertChunks(self, request: Any, context: Any) -> index_pb.UpsertChunksResponse:
        for chunk in request.chunks:
            key = request.collection_uid, request.document.document_id, chunk.chunk_id
            self.chunks[key] = request.revision_key, chunk, request.document
        self.writes += 1
        return index_pb.UpsertChunksResponse(index_revision=self.writes)

    async def RetireRevisions(self, request: Any, context: Any) -> index_pb.RetireRevisionsResponse:
        mine = {
            key: value for key, value in self.chunks.items() if key[:2] == (request.collection_uid, request.document_id)
        }
        if sum(value[0] == request.keep_revision_key for value in mine.values()) < request.expected_chunks:
            raise FailedPrecondition("the revision is not whole")
        for key, value in mine.items():
            if value[0] != request.keep_revision_key:
                del self.chunks[key]
        self.writes += 1
        return index_pb.RetireRevisionsResponse(index_revision=self.writes)

    async def UpdateDocumentFields(self, request: Any, context: Any) -> index_pb.UpdateDocumentFieldsResponse:
        for key, (revision, chunk, _) in list(self.chunks.items()):
            if key[:2] == (request.collection_uid, request.document.document_id):
                self.chunks[key] = revision, chunk, request.document
        self.writes += 1
        return index_pb.UpdateDocumentFieldsResponse(index_revision=self.writes)

    async def DeleteDocuments(self, request: Any, context: Any) -> index_pb.DeleteDocumentsResponse:
        self.chunks = {
            key: value
            for key, value in self.chunks.items()
            if key[0] != request.collection_uid or key[1] not in request.document_ids
        }
        self.writes += 1
        return index_pb.DeleteDocumentsResponse(index_revision=self.writes)

    async def GetIndexStats(self, request: Any, context: Any) -> index_pb.GetIndexStatsResponse:
        return index_pb.GetIndexStatsResponse(index_revision=self.writes, chunks=len(self.chunks))

    async def Embed(self, request: Any, context: Any) -> embedding_pb.EmbedResponse:
        assert request.input_type == embedding_pb.DOCUMENT
        self.embedded += request.texts
        return embedding_pb.EmbedResponse(
            embeddings=[embedding_pb.Embedding(values=[len(text)] * DIMENSION) for text in request.texts],
            model="models/tiny",
            model_revision=MODEL_REVISION,
        )

    async def GetTokenizer(self, request: Any, context: Any) -> tokenizer_pb.GetTokenizerResponse:
        tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return tokenizer_pb.GetTokenizerResponse(
            tokenizer_json=tokenizer.to_str().encode(),
            max_tokens=64,
            model="tiny",
            model_revision=MODEL_REVISION,
            dimension=DIMENSION,
        )


def _matches(filter: str, recorded: registry_pb.RecordDocumentRequest) -> bool:
    return evaluate(parse(filter, _FILTERED_BY), {"title": recorded.document.title})


def _record_of(recorded: registry_pb.RecordDocumentRequest) -> registry_pb.DocumentRecord:
    return registry_pb.DocumentRecord(
        document_id=recorded.document_id,
        state=recorded.document.state,
        content_hash=recorded.document.content_hash,
        revision_key=recorded.revision_key,
        fields_hash=recorded.fields_hash,
        revision=recorded.document.revision,
        document=recorded.document,
        source_key=recorded.source_key,
        origin=recorded.origin,
    )
