"""Search that is reranked by a real embedding service: with a tiny cross-encoder, and with an endpoint that fails."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2

from ragweave.v1 import collection_pb2
from ragweave.v1 import search_pb2 as pb
from services.embedding.__main__ import wire as wire_embedding
from services.embedding.rerank_sources import sources_from
from services.embedding.settings import Settings as EmbeddingSettings
from tests.cross_encoders import write_cross_encoder
from tests.mesh.harness import World
from tests.mesh.test_embedding_service import detail
from tests.mesh.test_retrieval_service import Running, as_jobs, record, running, upsert
from tests.rerank_server import RerankServer, rerank_server

# By stems, the first has most of the query's words; the model counts words as they are written.
TEXTS = ("fishes eating fish", "who eats fish and when", "dogs eat", "fish")
QUERY = "who eats fish"


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with rerank_server() as server:
        yield server


@asynccontextmanager
async def searching(tmp_path: Path, models: str, *, default: str = "") -> AsyncIterator[Running]:
    """The retrieval service beside an embedding service with these rerankers; `docs` holds the texts."""

    @asynccontextmanager
    async def embedding(world: World) -> AsyncIterator[int]:
        settings = EmbeddingSettings(mesh=world.mesh, port=0, rerank_models=sources_from(models))
        async with world.running(wire_embedding, settings, name="embedding") as port:
            yield port

    of_docs = record()
    if default:
        rerank = pb.SearchRequest.Rerank(model=default)
        of_docs.collection.default_search.CopyFrom(collection_pb2.SearchDefaults(rerank=rerank))
    async with running(tmp_path, of_docs, embedding=embedding) as made, as_jobs(made) as index:
        await index.UpsertChunks(upsert(texts=TEXTS))
        yield made


async def found(made: Running, *, timeout: float | None = None, **fields: object) -> pb.SearchResponse:
    asked = pb.SearchRequest(collection="docs", query=QUERY, mode=pb.SearchRequest.SPARSE, **fields)  # type: ignore[arg-type]
    response: pb.SearchResponse = await made.search(asked, metadata=made.bearer(), timeout=timeout)
    return response


def texts(response: pb.SearchResponse) -> list[str]:
    return [hit.text for hit in response.hits]


def rerank(model: str = "", top_n: int = 0) -> pb.SearchRequest.Rerank:
    return pb.SearchRequest.Rerank(model=model, top_n=top_n)


async def test_hits_are_ordered_by_a_cross_encoder(tmp_path: Path) -> None:
    words = " ".join((QUERY, *TEXTS)).split()
    tiny = write_cross_encoder(tmp_path / "tiny", words, max_tokens=64)
    async with searching(tmp_path, f"tiny={tiny}", default="house") as made:
        assert texts(await found(made, top_k=1, rerank=rerank(top_n=1))) == [TEXTS[0]]
        response = await found(made, rerank=rerank("models/tiny"))
        assert not response.degraded_stages
        best = response.hits[0]
        assert best.text == TEXTS[1]
        assert 0.9 < best.score < 1
        assert (best.scores[-1].stage, best.scores[-1].score, best.scores[-1].rank) == ("rerank", best.score, 1)
        scores = [hit.score for hit in response.hits]
        assert scores == sorted(scores, reverse=True)
        assert "rerank" in [each.stage for each in response.timings]
        one = await found(made, rerank=rerank(top_n=1), explain=True)
        assert [each.model for each in one.explanation.stages if each.stage == "rerank"] == ["models/tiny"]
        assert sum(any(each.stage == "rerank" for each in hit.scores) for hit in one.hits) == 1
        assert [hit.score for hit in one.hits[1:]] == pytest.approx(
            [one.hits[0].score - place for place in range(1, len(one.hits))]
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found(made, rerank=rerank("tyni"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == "rerank.model: no reranking model 'tyni'; there are: tiny"
        assert detail(caught.value, error_details_pb2.BadRequest()).field_violations[0].field == "rerank.model"
        by_default = await found(made)
        (degraded,) = by_default.degraded_stages
        assert (degraded.stage, degraded.reason) == ("rerank", "no reranking model 'house'; there are: tiny")


async def test_a_search_goes_on_without_an_endpoint_that_fails_or_is_slow(tmp_path: Path, server: RerankServer) -> None:
    async with searching(tmp_path, f"far={server.url}/cohere") as made:
        plain = await found(made)
        assert texts(await found(made, rerank=rerank("far"))) != texts(plain)
        server.failures += [(500, {})] * 9
        response = await found(made, rerank=rerank())
        assert texts(response) == texts(plain)
        assert [(each.stage, each.reason) for each in response.degraded_stages] == [
            ("rerank", f"{server.host} answered 500")
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found(made, rerank=rerank(), require_all=True)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        server.failures.clear()
        server.silent.set()
        late = await found(made, rerank=rerank(), timeout=0.6)
        assert texts(late) == texts(plain)
        assert [each.stage for each in late.degraded_stages] == ["rerank"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found(made, rerank=rerank(), require_all=True, timeout=0.6)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_mesh_without_reranking_models_says_so(tmp_path: Path) -> None:
    async with searching(tmp_path, "") as made:
        response = await found(made, rerank=rerank())
        assert texts(response) == texts(await found(made))
        assert [each.reason for each in response.degraded_stages] == ["no reranking model is configured"]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await found(made, rerank=rerank(), require_all=True)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
