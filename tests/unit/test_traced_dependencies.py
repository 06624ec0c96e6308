"""What a call asks of stores, of models and of endpoints, as parts of its trace."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from sqlalchemy import text

from services.embedding.adapters.endpoint import Endpoint, Refused
from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder
from services.mesh import traces
from services.mesh.breakers import Breaker
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import Dispensable, answering
from services.mesh.sql.databases import Mode, sqlite_url
from services.mesh.sql.opened import OpenDatabase
from services.mesh.traces import Trace, belonging_to
from services.retrieval.chunks import VectorQuery
from services.retrieval.measured_store import MeasuredVectorStore
from services.retrieval.ports import IndexId
from services.system.migrations import SYSTEM
from tests.embedding_fakes import MemoryCache, WordModel
from tests.rerank_server import rerank_server
from tests.retrieval_fakes import MemoryVectorStore, chunk, encoded, vector
from tests.spans import new_traceparent, recorded_call, recording

INDEX = IndexId("acme.docs.1")


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    with recording(monkeypatch) as made:
        yield made


def told(spans: InMemorySpanExporter) -> list[tuple[str, dict[str, Any]]]:
    return [(span.name, dict(span.attributes or {})) for span in spans.get_finished_spans()]


async def test_a_use_of_the_vector_store_is_a_part_and_answers_the_same(spans: InMemorySpanExporter) -> None:
    store = MemoryVectorStore()
    part = MeasuredVectorStore(store, CollectorRegistry())
    await part.ensure_index(INDEX, 4)
    await part.upsert(INDEX, [encoded(chunk("words of a document"), [1, 0, 0, 0])])
    assert spans.get_finished_spans() == ()
    query = VectorQuery(vector([1, 0, 0, 0]), None, limit=1)
    with belonging_to(recorded_call()):
        found = await part.search(INDEX, query)
        with pytest.raises(LookupError):
            await part.upsert(IndexId("none"), [encoded(chunk(), [1, 0, 0, 0])])
    assert found == await store.search(INDEX, query)
    search = {"db.system.name": "qdrant", "db.operation.name": "search", "db.collection.name": INDEX}
    upsert = {**search, "db.operation.name": "upsert", "db.collection.name": "none", "error.type": "LookupError"}
    assert told(spans) == [("vector store", search), ("vector store", upsert)]


async def test_a_question_to_redis_is_a_part_also_where_nothing_answers(spans: InMemorySpanExporter) -> None:
    class Pipeline:
        async def execute(self) -> list[Any]:
            raise ConnectionError("redis://:password@host")

    with belonging_to(recorded_call()):
        assert await Dispensable("embedding cache", timeout_s=1).answers(Pipeline()) is None
        async with answering("the revision counter", Breaker("redis"), timeout_s=1):
            pass
        with pytest.raises(DependencyUnavailable):
            async with answering("the revision counter", Breaker("redis"), timeout_s=1):
                raise ConnectionError("redis://:password@host")
    redis, failed = {"db.system.name": "redis"}, {"error.type": "ConnectionError"}
    assert told(spans) == [
        ("embedding cache", {**redis, **failed}),
        ("the revision counter", redis),
        ("the revision counter", {**redis, **failed}),
    ]


async def test_a_transaction_is_a_part(spans: InMemorySpanExporter, tmp_path: Path) -> None:
    async with OpenDatabase.open(sqlite_url(tmp_path / "a.db"), SYSTEM) as database:
        with belonging_to(recorded_call()):
            assert await database.run(lambda connection: connection.scalar(text("select 1")), Mode.READ) == 1
    assert told(spans) == [(SYSTEM.name, {"db.system.name": "sqlite", "db.operation.name": "READ"})]


async def test_an_endpoint_is_asked_in_the_name_of_the_trace(spans: InMemorySpanExporter) -> None:
    unrecorded = Trace("r", traces.new_traceparent(), "a=1")
    with rerank_server() as server:
        async with Endpoint.open(f"{server.url}/nowhere") as endpoint:
            for belonging in (recorded_call(7), unrecorded):
                with belonging_to(belonging), pytest.raises(Refused):
                    await endpoint.ask({"query": "words"})
        sent = [(each["traceparent"], each.get("tracestate")) for each in server.headers]
    (span,) = spans.get_finished_spans()
    assert span.context is not None
    assert sent == [(traces.traceparent_of(span.context), None), (unrecorded.traceparent, "a=1")]
    assert dict(span.attributes or {}) == {
        "http.request.method": "POST",
        "server.address": server.host,
        "http.response.status_code": 404,
        "error.type": "Refused",
    }


async def test_a_batch_of_a_model_is_linked_to_every_call_whose_texts_it_reads(spans: InMemorySpanExporter) -> None:
    model = WordModel()
    calls = [recorded_call(number) for number in (1, 2)]

    async def embed(belonging: Trace, word: str) -> None:
        with belonging_to(belonging):
            await embedder.embed("acme", [word])

    async with TieredCache(MemoryCache(), near_bytes=2**20) as cache:
        embedder = Embedder(model, cache, workers=1)
        model.gate.clear()
        first = asyncio.create_task(embed(calls[0], "one"))
        await model.started.acquire()
        others = [asyncio.create_task(embed(each, word)) for each, word in zip(calls, ("two", "six"), strict=True)]
        unrecorded = asyncio.create_task(embed(Trace("r", new_traceparent(3)), "ten"))
        for _ in range(20):  # lets everything that can run do so
            await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(first, *others, unrecorded)
    alone, mixed = spans.get_finished_spans()
    assert alone.parent == calls[0].span.get_span_context()  # type: ignore[union-attr]
    assert mixed.parent is None
    assert [link.context for link in mixed.links] == [each.span.get_span_context() for each in calls]  # type: ignore[union-attr]
    assert mixed.attributes == {"ragweave.batch.texts": 3}


async def test_what_a_model_does_belongs_to_no_call_of_those_that_follow(spans: InMemorySpanExporter) -> None:
    seen = []

    class Looking(WordModel):
        async def embed(self, batch: Any, input_type: Any) -> Any:
            seen.append(traces.current())
            return await super().embed(batch, input_type)

    async with TieredCache(MemoryCache(), near_bytes=2**20) as cache:
        with belonging_to(recorded_call()):
            await Embedder(Looking(), cache).embed("acme", ["one"])
    assert seen == [None]
