"""Deletions and undeletions as searches see them: the registry and the index, real, and whoever asks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1 import quota_service_pb2, registry_service_pb2
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceStub
from ragweave.internal.v1.quota_service_pb2_grpc import QuotaServiceServicer, add_QuotaServiceServicer_to_server
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from ragweave.v1 import collection_pb2, document_pb2, embedding_service_pb2, model_pb2, model_service_pb2
from ragweave.v1 import collection_service_pb2 as collections_pb
from ragweave.v1 import document_service_pb2 as documents_pb
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.document_service_pb2_grpc import DocumentServiceStub
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceServicer, add_EmbeddingServiceServicer_to_server
from ragweave.v1.model_service_pb2_grpc import ModelServiceServicer, add_ModelServiceServicer_to_server
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from services.collections.__main__ import wire as wire_collections
from services.collections.settings import Settings as CollectionsSettings
from services.mesh.quotas import Amounts, amounts_to
from services.retrieval.__main__ import wire as wire_retrieval
from services.retrieval.settings import Settings as RetrievalSettings
from tests.jobs_store import store_in
from tests.mesh.harness import World, caller_of
from tests.mesh.test_retrieval_service import serving
from tests.ports import free_port
from tests.retrieval_fakes import direction, vector

DIMENSION = 4
MODES = [pb.SearchRequest.HYBRID, pb.SearchRequest.DENSE, pb.SearchRequest.SPARSE]
CALLERS = ("admin", "reader", "bob", "anonymous")


class Others(EmbeddingServiceServicer, ModelServiceServicer, QuotaServiceServicer):
    """The embedding and the system service."""

    async def Embed(self, request: Any, context: Any) -> embedding_service_pb2.EmbedResponse:
        made = [embedding_service_pb2.Embedding(values=direction(text, DIMENSION)) for text in request.texts]
        return embedding_service_pb2.EmbedResponse(embeddings=made, model=request.model)

    async def GetModel(self, request: Any, context: Any) -> model_pb2.Model:
        return await self._model()

    async def ListModels(self, request: Any, context: Any) -> Any:
        return model_service_pb2.ListModelsResponse(models=[await self._model()])

    async def GetQuotaLimits(self, request: Any, context: Any) -> quota_service_pb2.GetQuotaLimitsResponse:
        return quota_service_pb2.GetQuotaLimitsResponse(limits=amounts_to(Amounts(99, 999, 999, 2**40)))

    async def _model(self) -> model_pb2.Model:
        kind = model_pb2.Model.EMBEDDING
        return model_pb2.Model(name="models/m", kind=kind, dimension=DIMENSION, max_tokens=256, default=True)


@dataclass
class Mesh:
    """The two services, what callers ask of them, and what a worker writes to them."""

    world: World
    collections: Any
    documents: Any
    search: Any
    registry: Any
    index: Any

    def who(self, name: str) -> Any:
        """Metadata of a caller; None for one without a token."""
        if name == "anonymous":
            return None
        return self.world.bearer(sub=name, roles=["admin" if name == "admin" else "reader"])

    async def imported(self, document_id: str, text: str, *principals: str) -> None:
        """What an import of the document writes, in its order."""
        docs = await self.collections.GetCollection(
            collections_pb.GetCollectionRequest(name="docs"), metadata=self.who("admin")
        )
        key = f"key of {text}"
        piece = index_pb.IndexChunk(
            chunk_id=text.partition(" ")[0], text=text, vector=vector(direction(text, DIMENSION))
        )
        upsert = index_pb.UpsertChunksRequest(collection_uid=docs.uid, revision_key=key, chunks=[piece])
        upsert.document.document_id = document_id
        upsert.document.principals.extend(principals)
        await self.index.UpsertChunks(upsert)
        record = registry_service_pb2.RecordDocumentRequest(
            collection_id="docs", collection_uid=docs.uid, document_id=document_id, revision_key=key
        )
        record.document.state = document_pb2.Document.ACTIVE
        record.document.chunk_count = 1
        record.document.content_hash = "ab" * 32
        record.document.acl.principals.extend(principals)
        await self.registry.RecordDocument(record)
        await self.index.RetireRevisions(
            index_pb.RetireRevisionsRequest(
                collection_uid=docs.uid, document_id=document_id, keep_revision_key=key, expected_chunks=1
            )
        )

    async def delete(self, *document_ids: str) -> None:
        names = [f"collections/docs/documents/{each}" for each in document_ids]
        request = documents_pb.BatchDeleteDocumentsRequest(parent="docs", names=names)
        await self.documents.BatchDeleteDocuments(request, metadata=self.who("admin"))

    async def undelete(self, document_id: str) -> document_pb2.Document:
        request = documents_pb.UndeleteDocumentRequest(name=f"collections/docs/documents/{document_id}")
        back: document_pb2.Document = await self.documents.UndeleteDocument(request, metadata=self.who("admin"))
        return back

    async def found(self, mode: int, caller: str, query: str = "foxes jump") -> set[str]:
        """Texts of the hits."""
        request = pb.SearchRequest(collection="docs", query=query, mode=mode, top_k=50)  # type: ignore[arg-type]
        response = await self.search(request, metadata=self.who(caller))
        return {hit.text for hit in response.hits}

    async def seen(self) -> dict[str, set[str]]:
        """By caller what it finds, the same in every mode."""
        found = {}
        for caller in CALLERS:
            by_mode = [await self.found(mode, caller) for mode in MODES]
            assert by_mode[0] == by_mode[1] == by_mode[2], caller
            found[caller] = by_mode[0]
        return found


def all_find(texts: set[str]) -> dict[str, set[str]]:
    return {caller: texts for caller in CALLERS}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as opened:
        url = opened.enter_context(store_in(tmp_path)).url
        world = World.in_folder(tmp_path, redis_url=url, public_tenant="acme")

        def add(servicer: Others, server: grpc.aio.Server) -> None:
            add_EmbeddingServiceServicer_to_server(servicer, server)
            add_ModelServiceServicer_to_server(servicer, server)
            add_QuotaServiceServicer_to_server(servicer, server)

        others = world.target(await opened.enter_async_context(world.serving(add, Others(), name="others")))
        searching = free_port()
        targets = {"embedding_target": others, "system_target": others, "retrieval_target": world.target(searching)}
        world = replace(world, mesh=world.mesh.model_copy(update=targets))
        own = CollectionsSettings(mesh=world.mesh, port=0, follow_poll_s=0.05)
        keeping = await opened.enter_async_context(world.running(wire_collections, own, name="collections"))
        world = replace(world, mesh=world.mesh.model_copy(update={"collections_target": world.target(keeping)}))
        retrieval = RetrievalSettings(mesh=world.mesh, port=searching)
        await opened.enter_async_context(world.running(wire_retrieval, retrieval, name="retrieval"))
        outside = await opened.enter_async_context(world.channel(keeping))
        search = await opened.enter_async_context(world.channel(searching))
        await serving(search)
        as_worker = {"service": "jobs"}
        registry = await opened.enter_async_context(world.channel_as(keeping, caller_of("ann"), **as_worker))
        index = await opened.enter_async_context(world.channel_as(searching, caller_of("ann"), **as_worker))
        await index.channel_ready()
        made = Mesh(
            world,
            CollectionServiceStub(outside),
            DocumentServiceStub(outside),
            RetrievalServiceStub(search).Search,
            RegistryServiceStub(registry),
            IndexServiceStub(index),
        )
        await made.collections.CreateCollection(
            collections_pb.CreateCollectionRequest(
                collection_id="docs", collection={"visibility": collection_pb2.Collection.PUBLIC}
            ),
            metadata=made.who("admin"),
        )
        yield made


async def test_every_search_sees_a_deletion_and_what_takes_it_back_as_soon_as_it_is_answered(mesh: Mesh) -> None:
    await mesh.imported("open", "open foxes jump")
    await mesh.imported("closed", "closed foxes jump", "user:bob")
    await mesh.imported("other", "other foxes jump")
    everything = {"open foxes jump", "other foxes jump"}
    before = {**all_find(everything), "bob": everything | {"closed foxes jump"}}
    assert await mesh.seen() == before
    for _ in range(2):
        await mesh.delete("open", "closed")
        assert await mesh.seen() == all_find({"other foxes jump"})
        stats = await mesh.collections.GetCollectionStats(
            collections_pb.GetCollectionStatsRequest(name="docs"), metadata=mesh.who("reader")
        )
        assert (stats.active_documents, stats.chunks) == (1, 1)
        assert (await mesh.undelete("open")).state == document_pb2.Document.ACTIVE
        assert await mesh.seen() == all_find(everything)
        await mesh.undelete("closed")
        assert await mesh.seen() == before


async def test_a_document_imported_in_the_place_of_a_deleted_one_shows_nothing_of_it(mesh: Mesh) -> None:
    await mesh.imported("a", "old foxes jump", "user:bob")
    await mesh.delete("a")
    await mesh.imported("a", "new foxes jump")
    assert await mesh.seen() == all_find({"new foxes jump"})
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await mesh.undelete("a")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    await mesh.delete("a")
    await mesh.imported("a", "new foxes jump", "user:bob")
    assert await mesh.seen() == {**all_find(set()), "bob": {"new foxes jump"}}


async def test_a_collection_comes_back_with_all_it_held_unless_its_id_is_taken(mesh: Mesh) -> None:
    await mesh.imported("open", "open foxes jump")
    await mesh.imported("gone", "gone foxes jump")
    await mesh.delete("gone")
    who = mesh.who("admin")
    delete = collections_pb.DeleteCollectionRequest(name="docs", force=True)
    undelete = collections_pb.UndeleteCollectionRequest(name="docs")
    await mesh.collections.DeleteCollection(delete, metadata=who)
    for caller in CALLERS:
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await mesh.found(MODES[0], caller)
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
    anew = collections_pb.CreateCollectionRequest(collection_id="docs", collection={})
    await mesh.collections.CreateCollection(anew, metadata=who)
    assert await mesh.found(MODES[0], "admin") == set()
    with pytest.raises(grpc.aio.AioRpcError) as taken:
        await mesh.collections.UndeleteCollection(undelete, metadata=who)
    assert taken.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert "can come back once this one is deleted" in (taken.value.details() or "")
    await mesh.collections.DeleteCollection(delete, metadata=who)
    back = await mesh.collections.UndeleteCollection(undelete, metadata=who)
    assert back.document_count == 0, "the one deleted last comes first"
    assert await mesh.found(MODES[0], "admin") == set()


async def test_a_collection_that_was_deleted_alone_is_searched_as_before(mesh: Mesh) -> None:
    await mesh.imported("open", "open foxes jump")
    before = await mesh.seen()
    who = mesh.who("admin")
    for _ in range(2):
        delete = collections_pb.DeleteCollectionRequest(name="docs", force=True)
        await mesh.collections.DeleteCollection(delete, metadata=who)
        undelete = collections_pb.UndeleteCollectionRequest(name="docs")
        await mesh.collections.UndeleteCollection(undelete, metadata=who)
        assert await mesh.seen() == before


async def test_however_deletions_undeletions_and_changes_race_index_and_registry_end_the_same(mesh: Mesh) -> None:
    await mesh.imported("a", "open foxes jump")
    name = "collections/docs/documents/a"
    who = mesh.who("admin")

    async def change(number: int) -> None:
        document = document_pb2.Document(name=name, title=f"title {number}")
        await mesh.documents.UpdateDocument(documents_pb.UpdateDocumentRequest(document=document), metadata=who)

    for number in range(12):
        await asyncio.gather(
            mesh.delete("a"), mesh.undelete("a"), change(number), mesh.undelete("a"), mesh.delete("a"),
            return_exceptions=True,
        )  # fmt: skip
        document = await mesh.documents.GetDocument(documents_pb.GetDocumentRequest(name=name), metadata=who)
        there = document.state == document_pb2.Document.ACTIVE
        response = await mesh.search(pb.SearchRequest(collection="docs", query="foxes"), metadata=who)
        assert [hit.title for hit in response.hits] == ([document.title] if there else []), number
        if not there:
            await mesh.undelete("a")
