"""The embedding service as others meet it: a real server, the real model, real messages."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenizers import Tokenizer

from ragweave.internal.v1.tokenizer_service_pb2 import GetTokenizerRequest
from ragweave.internal.v1.tokenizer_service_pb2_grpc import TokenizerServiceStub
from ragweave.third_party.buf.validate import validate_pb2
from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub, add_EmbeddingServiceServicer_to_server
from ragweave.v1.model_pb2 import Model
from ragweave.v1.model_service_pb2 import GetModelRequest, ListModelsRequest
from ragweave.v1.model_service_pb2_grpc import ModelServiceStub
from services.embedding import convert
from services.embedding.__main__ import wire
from services.embedding.adapters.onnx import ModelFiles
from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder
from services.embedding.models import Catalog
from services.embedding.servicer import EmbeddingServicer
from services.embedding.settings import Settings
from services.mesh.listening import CannotStart
from tests.cross_encoders import write_cross_encoder
from tests.embedding_fakes import MemoryCache, WordModel
from tests.mesh.harness import World, caller_of

# The service reads its model when it starts: once for all tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")

LONG = "word " * 300


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World.in_folder(tmp_path_factory.mktemp("world"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port(world: World) -> AsyncIterator[int]:
    """The whole service; its Redis is down, which must not matter."""
    async with world.running(wire, Settings(mesh=world.mesh, port=0), name="embedding") as port:
        yield port


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def channel(world: World, port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with world.channel_as(port, caller_of()) as channel:
        yield channel


@pytest.fixture
def embedding(channel: grpc.aio.Channel) -> Any:
    return EmbeddingServiceStub(channel)


@pytest.fixture
def models(channel: grpc.aio.Channel) -> Any:
    return ModelServiceStub(channel)


def detail(error: grpc.aio.AioRpcError, message: Any) -> Any:
    """The error's detail of the message's kind."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            for each in status_pb2.Status.FromString(value).details:
                if each.Unpack(message):
                    return message
    raise AssertionError(f"no {message.DESCRIPTOR.full_name}")


async def refused(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_texts_come_back_as_vectors_in_their_order(embedding: Any) -> None:
    texts = ["a cat sleeps on the sofa", "interest rates rose", "the cat is sleeping on a sofa"]
    answer = await embedding.Embed(pb.EmbedRequest(texts=texts))
    cat, rates, again = np.array([each.values for each in answer.embeddings])
    assert cat @ again > cat @ rates + 0.2
    assert np.linalg.norm(cat) == pytest.approx(1, abs=1e-5)
    assert answer.model == "models/all-MiniLM-L6-v2"
    assert len(answer.model_revision) == 16
    assert [each.token_count for each in answer.embeddings] == [8, 5, 9]
    repeated = await embedding.Embed(pb.EmbedRequest(texts=texts[:1]))
    assert repeated.embeddings[0].cached
    assert repeated.embeddings[0].values == answer.embeddings[0].values
    recomputed = await embedding.Embed(pb.EmbedRequest(texts=texts[:1], recompute=True))
    assert not recomputed.embeddings[0].cached


async def test_a_long_text_is_refused_by_its_place(embedding: Any) -> None:
    error = await refused(embedding.Embed(pb.EmbedRequest(texts=["short", LONG])))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "texts[1]: has 302 tokens" in error.details()
    info = detail(error, error_details_pb2.ErrorInfo())
    assert (info.reason, info.metadata["limit"]) == ("TEXT_TOO_LONG", "256")
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == "texts[1]"


async def test_a_long_text_is_cut_where_that_is_asked_for(embedding: Any) -> None:
    answer = await embedding.Embed(pb.EmbedRequest(texts=["short", LONG], truncate=True))
    assert [(each.token_count, each.truncated) for each in answer.embeddings] == [(3, False), (256, True)]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.EmbedRequest(), "texts"),
        (pb.EmbedRequest(texts=["fine", ""]), "texts[1]"),
        (pb.EmbedRequest(texts=["fine", " \n"]), "texts[1]"),
        (pb.EmbedRequest(texts=["a"] * 257), "texts"),
        (pb.EmbedRequest(texts=["a"], input_type=9), "input_type"),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_request_is_refused_by_field(embedding: Any, request_: pb.EmbedRequest, field: str) -> None:
    error = await refused(embedding.Embed(request_))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail(error, error_details_pb2.BadRequest()).field_violations[0].field == field


async def test_an_unknown_model_is_not_found(embedding: Any, models: Any) -> None:
    for call in (
        embedding.Embed(pb.EmbedRequest(texts=["a"], model="models/none")),
        embedding.CountTokens(pb.CountTokensRequest(texts=["a"], model="none")),
        models.GetModel(GetModelRequest(name="none")),
    ):
        error = await refused(call)
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "all-MiniLM-L6-v2" in error.details()


async def test_queries_are_answered_while_an_import_runs(embedding: Any) -> None:
    """However large the import: were its texts first, the query would end last."""
    bulk = asyncio.ensure_future(embedding.Embed(pb.EmbedRequest(texts=[f"{n} {'word ' * 100}" for n in range(64)])))
    await embedding.CountTokens(pb.CountTokensRequest(texts=["lets the import in first"]))
    await embedding.Embed(pb.EmbedRequest(texts=["a question"], input_type=pb.QUERY))
    assert not bulk.done()
    await bulk


async def test_a_stream_answers_each_text_and_ends_with_a_status(embedding: Any) -> None:
    texts = {"a": "a cat", "empty": "", "long": LONG, **{str(number): f"text {number}" for number in range(100)}}
    call = embedding.StreamEmbed(pb.StreamEmbedRequest(id=id, text=text) for id, text in texts.items())
    answers = [answer async for answer in call]
    assert answers[-1].WhichOneof("result") == "final_status"
    assert answers[-1].final_status.code == 0
    found = {answer.id: answer for answer in answers[:-1]}
    assert set(found) == set(texts)
    assert len(found["a"].embedding.values) == 384
    assert found["empty"].error.message == "text: holds no text to embed"
    assert found["long"].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]


async def test_a_stream_of_an_unknown_model_ends_with_its_status_twice(embedding: Any) -> None:
    """Once as a message, for those who only see messages, and once as gRPC's own."""
    call = embedding.StreamEmbed(iter([pb.StreamEmbedRequest(id="1", text="a", model="none")]))
    answer = await call.read()
    assert answer.final_status.code == grpc.StatusCode.NOT_FOUND.value[0]
    assert (await refused(call.read())).code() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_may_be_conversed_with(embedding: Any) -> None:
    call = embedding.StreamEmbed()
    for number in range(3):
        await call.write(pb.StreamEmbedRequest(id=str(number), text=f"text {number}"))
        assert (await call.read()).id == str(number)
    await call.done_writing()
    assert (await call.read()).HasField("final_status")


async def test_tokens_are_counted_special_ones_included(embedding: Any) -> None:
    answer = await embedding.CountTokens(pb.CountTokensRequest(texts=["a cat", "", LONG]))
    assert list(answer.token_counts) == [4, 2, 302]
    assert answer.max_tokens == 256


async def test_models_are_listed_with_their_limits_and_licence(models: Any) -> None:
    answer = await models.ListModels(ListModelsRequest(filter="dimension > 100 AND kind = EMBEDDING"))
    (model,) = answer.models
    assert model == await models.GetModel(GetModelRequest(name="models/all-MiniLM-L6-v2"))
    assert model == await models.GetModel(GetModelRequest(name="all-MiniLM-L6-v2"))
    assert (model.kind, model.dimension, model.max_tokens, model.distance) == (Model.EMBEDDING, 384, 256, "cosine")
    assert (model.license, list(model.languages), model.normalized, model.default) == ("Apache-2.0", ["en"], True, True)
    assert answer.total_size == 1
    assert not (await models.ListModels(ListModelsRequest(filter="dimension > 1000"))).models
    error = await refused(models.ListModels(ListModelsRequest(filter="size > 1")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_the_tokenizer_counts_as_the_service_does(embedding: Any, channel: grpc.aio.Channel) -> None:
    answer = await TokenizerServiceStub(channel).GetTokenizer(GetTokenizerRequest())
    tokenizer = Tokenizer.from_str(answer.tokenizer_json.decode())
    counted = await embedding.CountTokens(pb.CountTokensRequest(texts=[LONG]))
    assert len(tokenizer.encode(LONG).ids) == counted.token_counts[0]
    assert (answer.max_tokens, answer.special_tokens, answer.dimension) == (256, 2, 384)
    assert answer.model == "all-MiniLM-L6-v2"


async def test_users_do_not_get_the_tokenizer(world: World, port: int) -> None:
    async with world.channel(port) as channel:
        call = TokenizerServiceStub(channel).GetTokenizer(GetTokenizerRequest(), metadata=world.bearer(roles=["admin"]))
        assert (await refused(call)).code() is grpc.StatusCode.PERMISSION_DENIED


async def test_it_serves_while_its_cache_is_down(world: World, port: int) -> None:
    async with world.channel(port) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service="ragweave.v1.EmbeddingService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_cancelled_call_leaves_no_work_behind(world: World) -> None:
    model = WordModel()
    model.gate.clear()
    async with TieredCache(MemoryCache(), near_bytes=2**20) as cache:
        servicer = EmbeddingServicer(Catalog([Embedder(model, cache, workers=1, batch_tokens=1)]))
        async with (
            world.serving(add_EmbeddingServiceServicer_to_server, servicer) as port,
            world.channel_as(port, caller_of()) as channel,
        ):
            stub: Any = EmbeddingServiceStub(channel)
            call = asyncio.ensure_future(stub.Embed(pb.EmbedRequest(texts=[f"text {n}" for n in range(50)])))
            await model.started.acquire()
            call.cancel()
            after = asyncio.ensure_future(stub.Embed(pb.EmbedRequest(texts=["what comes after"])))
            while "what comes after" not in model.tokenized:
                await asyncio.sleep(0.001)
            model.gate.set()
            await after
    assert model.lengths() == [[2], [3]]


async def test_the_batch_size_told_is_the_one_enforced() -> None:
    field = pb.EmbedRequest.DESCRIPTOR.fields_by_name["texts"]
    assert field.GetOptions().Extensions[validate_pb2.field].repeated.max_items == convert.MAX_BATCH_SIZE


async def test_weights_of_another_model_keep_the_service_from_starting(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_cross_encoder(tmp_path, ["word"]) / "model.onnx"
    files = replace(ModelFiles.packaged(), weights=other)
    monkeypatch.setattr(ModelFiles, "packaged", lambda: files)
    with pytest.raises(CannotStart, match=f"^embedding: {other} is not all-MiniLM-L6-v2"):
        async with world.running(wire, Settings(mesh=world.mesh, port=0), name="embedding"):
            pass
