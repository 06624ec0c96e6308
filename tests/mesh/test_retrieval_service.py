"""The retrieval service as a whole: its own wiring, a real store, real Redis, the other services played by the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.struct_pb2 import Struct
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1 import registry_service_pb2 as registry_pb
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceStub
from ragweave.internal.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from ragweave.v1 import collection_pb2, embedding_service_pb2
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceServicer, add_EmbeddingServiceServicer_to_server
from ragweave.v1.filter_pb2 import ParseFilterRequest
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from services.mesh.errors import CollectionNotFound, TextTooLong
from services.mesh.filters import parse as parse_text
from services.mesh.filters.typed import from_typed
from services.mesh.identity import caller
from services.retrieval.__main__ import wire
from services.retrieval.filterable import SCHEMA
from services.retrieval.settings import Settings
from tests.jobs_store import store_in
from tests.mesh.harness import World, caller_of
from tests.retrieval_fakes import direction, vector

DIMENSION = 4


class Embedding(EmbeddingServiceServicer):
    async def Embed(self, request: Any, context: Any) -> embedding_service_pb2.EmbedResponse:
        assert request.input_type == embedding_service_pb2.QUERY
        if len(request.texts[0]) > 1000:
            raise TextTooLong("texts[0]: has 300 tokens, the model takes 256")
        embedding = embedding_service_pb2.Embedding(values=direction(request.texts[0], DIMENSION), token_count=3)
        return embedding_service_pb2.EmbedResponse(embeddings=[embedding], model=request.model)


@dataclass
class Registry(RegistryServiceServicer):
    """Collections put here are told to the watcher, and to who asks in their tenant."""

    records: dict[str, registry_pb.CollectionRecord] = field(default_factory=dict)
    changes: "asyncio.Queue[registry_pb.CollectionRecord]" = field(default_factory=asyncio.Queue)

    async def GetCollectionRecord(self, request: Any, context: Any) -> registry_pb.CollectionRecord:
        found = self.records.get(request.collection_id)
        if found is None or found.tenant != caller(context).tenant:
            raise CollectionNotFound(f"no collection {request.collection_id!r}")
        return found

    async def WatchCollections(self, request: Any, context: Any) -> AsyncIterator[registry_pb.WatchCollectionsResponse]:
        yield registry_pb.WatchCollectionsResponse(records=self.records.values(), snapshot_complete=True)
        while True:
            yield registry_pb.WatchCollectionsResponse(records=[await self.changes.get()])


@dataclass
class Running:
    world: World
    port: int
    registry: Registry
    channel: grpc.aio.Channel

    @property
    def search(self) -> Any:
        return RetrievalServiceStub(self.channel).Search

    def bearer(self, **claims: Any) -> Any:
        return self.world.bearer(**{"roles": ["reader"], **claims})

    async def found(self, metadata: Any = None, **fields: Any) -> pb.SearchResponse:
        asked = pb.SearchRequest(**{"collection": "docs", "query": "foxes", **fields})
        response: pb.SearchResponse = await self.search(asked, metadata=metadata or self.bearer())
        return response


def record(collection_id: str = "docs", **fields: Any) -> registry_pb.CollectionRecord:
    collection = collection_pb2.Collection(
        name=f"collections/{collection_id}", uid=f"uid-{collection_id}", embedding_model="models/m", language="en"
    )
    for name, value in fields.pop("collection", {}).items():
        setattr(collection, name, value)
    given = {"tenant": "acme", "dimension": DIMENSION, "sequence": 1, **fields}
    return registry_pb.CollectionRecord(collection=collection, **given)


def played(world: World) -> AbstractAsyncContextManager[int]:
    """The port of an embedding service that the test plays."""
    return world.serving(add_EmbeddingServiceServicer_to_server, Embedding(), name="embedding")


@asynccontextmanager
async def running(
    tmp_path: Path,
    *records: registry_pb.CollectionRecord,
    embedding: Callable[[World], AbstractAsyncContextManager[int]] = played,
) -> AsyncIterator[Running]:
    async with AsyncExitStack() as opened:
        url = opened.enter_context(store_in(tmp_path)).url
        world = World.in_folder(tmp_path, redis_url=url, public_tenant="acme")
        registry = Registry({each.collection.name.rpartition("/")[2]: each for each in records})
        embedding_port = await opened.enter_async_context(embedding(world))
        registry_port = await opened.enter_async_context(
            world.serving(add_RegistryServiceServicer_to_server, registry, name="collections")
        )
        mesh = world.mesh.model_copy(
            update={
                "embedding_target": world.target(embedding_port),
                "collections_target": world.target(registry_port),
            }
        )
        settings = Settings(mesh=mesh, port=0)
        port = await opened.enter_async_context(world.running(wire, settings, name="retrieval"))
        channel = await opened.enter_async_context(world.channel(port))
        await serving(channel)
        yield Running(world, port, registry, channel)


async def serving(channel: grpc.aio.Channel) -> None:
    """Until the service says so: it has heard of every collection then."""
    async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


@asynccontextmanager
async def as_jobs(made: Running) -> AsyncIterator[IndexServiceStub]:
    async with made.world.channel_as(made.port, caller_of(), service="jobs") as channel:
        yield IndexServiceStub(channel)


def upsert(document: str = "d1", *, texts: tuple[str, ...] = ("foxes jump", "dogs sleep"), **fields: Any) -> Any:
    metadata = Struct()
    metadata.update({"year": 2020, "tags": ["a", "b"]})
    of_document = index_pb.DocumentFields(
        document_id=document,
        title="Title",
        metadata=metadata,
        content_hash="ab" * 32,
        revision=2,
        **fields,
    )
    chunks = [
        index_pb.IndexChunk(
            chunk_id=f"k{n}",
            ordinal=n,
            text=text,
            section="A > B",
            start_offset=n,
            end_offset=n + 5,
            vector=vector(direction(text, DIMENSION)),
        )
        for n, text in enumerate(texts)
    ]
    return index_pb.UpsertChunksRequest(
        collection_uid="uid-docs", document=of_document, revision_key="r1", chunks=chunks
    )


async def test_what_is_written_is_found_with_all_a_hit_tells(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made, as_jobs(made) as index:
        written = await index.UpsertChunks(upsert())
        assert written.index_revision == 1
        response = await made.found(query="jumping foxes", highlight=True)
        hit = response.hits[0]
        assert hit.chunk == "collections/docs/documents/d1/chunks/k0"
        assert (hit.document, hit.collection) == ("collections/docs/documents/d1", "collections/docs")
        assert (hit.text, hit.title, hit.section, hit.revision) == ("foxes jump", "Title", "A > B", 2)
        assert dict(hit.metadata)["year"] == 2020 and list(hit.metadata["tags"]) == ["a", "b"]  # type: ignore[call-overload]
        assert [(each.start_offset, each.end_offset) for each in hit.highlights] == [(0, 5), (6, 10)]
        assert {each.stage for each in hit.scores} == {"dense", "sparse"}
        assert response.total_size == 2 and response.usage.query_tokens == 3
        assert {each.stage for each in response.timings} == {"authorize", "cache", "embed", "store", "total"}
        assert len(response.trace_id) == 32
        told = (await made.found(query="jumping foxes", explain=True)).explanation
        stages = ["authorize", "cache", "embed", "store", "dense", "sparse", "fusion"]
        assert [each.stage for each in told.stages] == stages
        assert [(each.candidates, each.detail) for each in told.stages[4:6]] == [(2, ""), (1, "jump fox")]
        assert [each.index_revision for each in told.collections] == [1]


async def test_index_writes_do_what_they_say(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made, as_jobs(made) as index:
        await index.UpsertChunks(upsert())
        listed = await index.ListChunks(
            index_pb.ListChunksRequest(collection_uid="uid-docs", document_id="d1", from_ordinal=1, limit=10)
        )
        assert ([each.text for each in listed.chunks], listed.total_size) == (["dogs sleep"], 2)
        fields = index_pb.DocumentFields(document_id="d1", title="New", principals=["user:bob"])
        request = index_pb.UpdateDocumentFieldsRequest(collection_uid="uid-docs", document=fields)
        assert (await index.UpdateDocumentFields(request)).index_revision == 2
        assert (await made.found()).total_size == 0
        assert (await made.found(metadata=made.bearer(sub="bob"))).hits[0].title == "New"
        retire = index_pb.RetireRevisionsRequest(
            collection_uid="uid-docs", document_id="d1", keep_revision_key="r9", expected_chunks=1
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await index.RetireRevisions(retire)
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        retire.expected_chunks = 0
        await index.RetireRevisions(retire)
        await index.UpsertChunks(upsert())
        delete = index_pb.DeleteDocumentsRequest(collection_uid="uid-docs", document_ids=["d1", "never"])
        assert (await index.DeleteDocuments(delete)).index_revision == 5
        stats = await index.GetIndexStats(index_pb.GetIndexStatsRequest(collection_uid="uid-docs"))
        assert (stats.chunks, stats.index_revision) == (0, 5)
        await index.DropIndex(index_pb.DropIndexRequest(collection_uid="uid-docs"))


async def test_a_change_of_a_collection_holds_once_it_is_applied(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made, as_jobs(made) as index:
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await made.search(pb.SearchRequest(query="x", collection="docs"))  # without a token
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND
        public = {"visibility": collection_pb2.Collection.PUBLIC}
        await index.ApplyCollection(index_pb.ApplyCollectionRequest(record=record(collection=public, sequence=2)))
        assert (await made.search(pb.SearchRequest(query="x", collection="docs"))).total_size == 0
        disabled = record(collection={"disabled": True}, sequence=3)
        await index.ApplyCollection(index_pb.ApplyCollectionRequest(record=disabled))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await made.found()
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        made.registry.changes.put_nowait(record(sequence=4))
        while True:
            try:
                await made.found()
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_collection_the_stream_has_not_told_of_is_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as made:
        made.registry.records["late"] = record("late")
        assert (await made.found(collection="collections/late")).total_size == 0
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await made.found(collection="late", metadata=made.bearer(tenant="other"))
        assert missing.value.code() is grpc.StatusCode.NOT_FOUND


BAD: list[tuple[dict[str, Any], str]] = [
    ({"query": ""}, "query"),
    ({"query": "word " * 300}, "query"),
    ({"top_k": -1}, "top_k"),
    ({"top_k": 10_000}, "top_k"),
    ({"page_token": "nonsense"}, "page_token"),
    ({"filter": "metadata.year >> 2"}, "filter"),
    ({"filter": 'title > "a"'}, "filter"),
    ({"vector": [1.0]}, "vector"),
    ({"collection": ""}, "collection"),
    ({"read_mask": FieldMask(paths=["nonsense"])}, "read_mask"),
    ({"mmr": pb.SearchRequest.Mmr(diversity=1.5)}, "mmr.diversity"),
    ({"group_by": {"field": "title"}}, "group_by.field"),
    ({"group_by": {"field": "document", "group_size": 20}, "top_k": 11}, "top_k"),
    ({"neighbors": 5, "top_k": 100}, "neighbors"),
    ({"facets": [{"field": "metadata.a"}, {"field": "year"}]}, "facets[1].field"),
    ({"facets": [{"field": "metadata.a", "limit": 101}]}, "facets[0].limit"),
    ({"boosts": [{"factor": 2}]}, "boosts[0].kind"),
    ({"boosts": [{"filter": "metadata.a = 1"}]}, "boosts[0].factor"),
    ({"boosts": [{"filter": "metadata.a = 1", "factor": 2}, {"filter": "a =", "factor": 2}]}, "boosts[1].filter"),
    ({"boosts": [{"decay": {"field": "create_time"}}]}, "boosts[0].decay.scale"),
    (
        {"boosts": [{"decay": {"field": "metadata.a", "scale": 1, "origin": {"bool_value": True}}}]},
        "boosts[0].decay.origin",
    ),
    ({"boosts": [{"decay": {"field": "title", "scale": 1}}]}, "boosts[0].decay.field"),
]


async def test_bad_input_is_refused_by_name(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made, as_jobs(made) as index:
        await index.UpsertChunks(upsert())
        for fields, name in BAD:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await made.found(**fields)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, fields
            assert name in (refused.value.details() or ""), fields


async def test_a_filter_is_parsed_without_a_collection_and_refused_with_its_column(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made:
        parse = RetrievalServiceStub(made.channel).ParseFilter
        answer = await parse(
            ParseFilterRequest(filter="prefix(title, T) AND NOT exists(metadata.a)"), metadata=made.bearer()
        )
        assert answer.canonical == 'metadata.a = null AND title = "T*"'
        assert from_typed(answer.tree, SCHEMA) == parse_text("title = T* AND metadata.a = null", SCHEMA)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await parse(ParseFilterRequest(filter="author = x"), metadata=made.bearer())
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "column 1: no field 'author' (did you mean metadata.author?)" in (refused.value.details() or "")


async def test_a_mask_leaves_the_fields_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made, as_jobs(made) as index:
        await index.UpsertChunks(upsert())
        hit = (await made.found(read_mask=FieldMask(paths=["chunk", "score"]))).hits[0]
        assert {field.name for field, _ in hit.ListFields()} == {"chunk", "score"}


async def test_users_may_not_write_the_index(tmp_path: Path) -> None:
    async with running(tmp_path, record()) as made:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await IndexServiceStub(made.channel).UpsertChunks(upsert(), metadata=made.bearer(roles=["admin"]))
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
