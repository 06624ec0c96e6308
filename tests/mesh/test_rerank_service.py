"""Reranking as others meet it: the whole embedding service with a tiny cross-encoder and an endpoint."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from ragweave.third_party.buf.validate import validate_pb2
from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from ragweave.v1.model_pb2 import Model
from ragweave.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from ragweave.v1.model_service_pb2_grpc import ModelServiceStub
from services.embedding import convert
from services.embedding.__main__ import wire
from services.embedding.rerank_sources import sources_from
from services.embedding.settings import Settings
from services.mesh.listening import CannotStart
from tests.cross_encoders import write_cross_encoder
from tests.mesh.harness import World, caller_of
from tests.mesh.test_embedding_service import detail, refused
from tests.rerank_server import RerankServer, rerank_server

QUERY = "who eats fish"
TEXTS = ["the dog sleeps", "the cat eats fish", "fish"]
KEY = "sw0rdfish"


@pytest.fixture
def server() -> Iterator[RerankServer]:
    with rerank_server() as server:
        yield server


@pytest.fixture
async def channel(world: World, tmp_path: Path, server: RerankServer) -> AsyncIterator[grpc.aio.Channel]:
    folder = write_cross_encoder(tmp_path / "tiny", " ".join((QUERY, *TEXTS)).split())
    (tmp_path / "key").write_text(f"{KEY}\n")
    settings = Settings(
        mesh=world.mesh,
        port=0,
        rerank_models=sources_from(f"tiny={folder},remote={server.url}/cohere?model=vendor/m"),
        rerank_keys={"remote": tmp_path / "key"},
    )
    async with world.running(wire, settings, name="embedding") as port, world.channel_as(port, caller_of()) as channel:
        yield channel


async def test_documents_are_ordered_by_models_here_and_at_endpoints(
    channel: grpc.aio.Channel, server: RerankServer
) -> None:
    embedding: Any = EmbeddingServiceStub(channel)
    answer = await embedding.Rerank(pb.RerankRequest(query=QUERY, documents=TEXTS))
    assert [each.index for each in answer.results] == [1, 2, 0]
    assert [each.score for each in answer.results] == pytest.approx([0.8765, 0.7291, 0.4925], abs=0.0001)
    assert (answer.model, len(answer.model_revision), answer.total_tokens) == ("models/tiny", 16, 26)
    (best,) = (await embedding.Rerank(pb.RerankRequest(query=QUERY, documents=TEXTS, top_n=1))).results
    assert best == answer.results[0]
    remote = await embedding.Rerank(pb.RerankRequest(model="models/remote", query=QUERY, documents=TEXTS))
    assert [each.index for each in remote.results] == [1, 2, 0]
    assert (remote.model, remote.model_revision, remote.total_tokens) == ("models/remote", "", 7)
    assert (server.asked[0]["model"], server.headers[0]["authorization"]) == ("vendor/m", f"Bearer {KEY}")


async def test_long_documents_are_cut_unless_that_is_forbidden(channel: grpc.aio.Channel) -> None:
    embedding: Any = EmbeddingServiceStub(channel)
    documents = ["fish", "sofa " * 60]
    answer = await embedding.Rerank(pb.RerankRequest(query=QUERY, documents=documents))
    assert [each.truncated for each in answer.results] == [False, True]
    error = await refused(embedding.Rerank(pb.RerankRequest(query=QUERY, documents=documents, truncate=False)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "documents[1]: has 66 tokens together with the query, and tiny takes 32" in error.details()
    remote = pb.RerankRequest(model="remote", query=QUERY, documents=TEXTS, truncate=False)
    error = await refused(embedding.Rerank(remote))
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "truncate"


async def test_bad_requests_are_refused_by_field(channel: grpc.aio.Channel) -> None:
    embedding: Any = EmbeddingServiceStub(channel)
    for request, field in (
        (pb.RerankRequest(documents=["a"]), "query"),
        (pb.RerankRequest(query=" ", documents=["a"]), "query"),
        (pb.RerankRequest(query="q"), "documents"),
        (pb.RerankRequest(query="q", documents=["a", " "]), "documents[1]"),
        (pb.RerankRequest(query="q", documents=["a"] * 201), "documents"),
        (pb.RerankRequest(query="q", documents=["a" * 65537]), "documents[0]"),
        (pb.RerankRequest(query="q", documents=["a"], top_n=201), "top_n"),
    ):
        error = await refused(embedding.Rerank(request))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == field


async def test_kinds_of_models_are_not_mistaken_for_one_another(channel: grpc.aio.Channel) -> None:
    embedding: Any = EmbeddingServiceStub(channel)
    for call, known in (
        (embedding.Rerank(pb.RerankRequest(model="tyni", query=QUERY, documents=TEXTS)), "tiny, remote"),
        (embedding.Rerank(pb.RerankRequest(model="all-MiniLM-L6-v2", query=QUERY, documents=TEXTS)), "tiny, remote"),
        (embedding.Embed(pb.EmbedRequest(model="tiny", texts=TEXTS)), "all-MiniLM-L6-v2"),
        (embedding.CountTokens(pb.CountTokensRequest(model="tiny", texts=TEXTS)), "all-MiniLM-L6-v2"),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert error.details().endswith(f"there are: {known}")


async def test_reranking_models_are_listed_with_their_kind(channel: grpc.aio.Channel) -> None:
    models: Any = ModelServiceStub(channel)
    listed = await models.ListModels(ListModelsRequest(filter="kind = RERANKING", order_by="name"))
    remote, tiny = listed.models
    assert (tiny.name, tiny.kind, tiny.max_tokens, tiny.default) == ("models/tiny", Model.RERANKING, 32, True)
    assert (remote.name, remote.max_tokens, remote.default, remote.revision) == ("models/remote", 0, False, "")
    assert tiny == await models.GetModel(GetModelRequest(name="tiny"))
    assert tiny.max_batch_size == convert.MAX_RERANKED
    every = await models.ListModels(ListModelsRequest())
    assert [each.name for each in every.models if each.default] == ["models/all-MiniLM-L6-v2", "models/tiny"]


async def test_an_endpoint_that_is_down_is_named_and_nothing_else_of_it(
    channel: grpc.aio.Channel, server: RerankServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server.failures += [(500, {})] * 9
    request = pb.RerankRequest(model="remote", query=QUERY, documents=TEXTS)
    error = await refused(EmbeddingServiceStub(channel).Rerank(request))
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert error.details() == f"{server.host} answered 500"
    assert len(server.asked) == 1
    server.failures[:] = [(503, {"retry-after": "0"})] * 9
    assert (await refused(EmbeddingServiceStub(channel).Rerank(request))).details() == f"{server.host} answered 503"
    assert len(server.asked) == 1 + 2, "what the service has tried again, the channel does not"
    assert KEY not in "".join(capfd.readouterr())


async def test_an_endpoint_that_is_slow_costs_no_more_than_the_callers_time(
    channel: grpc.aio.Channel, server: RerankServer
) -> None:
    server.silent.set()
    request = pb.RerankRequest(model="remote", query=QUERY, documents=TEXTS)
    error = await refused(EmbeddingServiceStub(channel).Rerank(request, timeout=0.5))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await EmbeddingServiceStub(channel).Rerank(pb.RerankRequest(query=QUERY, documents=TEXTS))).results


@pytest.mark.parametrize("named", ["tiny=/nowhere", "all-MiniLM-L6-v2=http://127.0.0.1:1"])
async def test_a_model_that_cannot_be_used_keeps_the_service_from_starting(world: World, named: str) -> None:
    settings = Settings(mesh=world.mesh, port=0, rerank_models=sources_from(named))
    with pytest.raises(CannotStart, match=r"^embedding: RAGWEAVE_EMBEDDING_RERANK_MODELS: .+"):
        async with world.running(wire, settings, name="embedding"):
            pass


async def test_a_key_that_cannot_be_read_keeps_the_service_from_starting(world: World, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("two\nlines")
    for file in (tmp_path / "nothing", tmp_path / "key"):
        settings = Settings(
            mesh=world.mesh,
            port=0,
            rerank_models=sources_from("remote=http://127.0.0.1:1"),
            rerank_keys={"remote": file},
        )
        with pytest.raises(CannotStart, match=f"{file.name} holds no API key") as caught:
            async with world.running(wire, settings, name="embedding"):
                pass
        assert "two" not in str(caught.value)


def test_the_number_of_documents_told_is_the_one_enforced() -> None:
    field = pb.RerankRequest.DESCRIPTOR.fields_by_name["documents"]
    assert field.GetOptions().Extensions[validate_pb2.field].repeated.max_items == convert.MAX_RERANKED
