"""What any reranker must do, wherever its model runs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.embedding.adapters.endpoint import Endpoint
from services.embedding.adapters.onnx_cross_encoder import OnnxCrossEncoder
from services.embedding.adapters.rerank_endpoints import CohereReranker, TeiReranker
from services.embedding.models import RerankerSpec
from services.embedding.ports import Reranker
from services.embedding.reranker import LocalReranker, rerank
from services.mesh.errors import InvalidArgument, TextTooLong
from tests.cross_encoders import write_cross_encoder
from tests.embedding_fakes import OverlapEncoder
from tests.rerank_server import rerank_server

QUERY = "who eats fish"
TEXTS = ["the dog sleeps", "fish", "the cat eats fish", "a cat eats and eats", "on a sofa"]
LONG = " ".join(["sofa"] * 60)


@pytest.fixture(params=["fake", "onnx", "cohere", "tei"])
async def reranker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Reranker]:
    if request.param == "fake":
        yield LocalReranker(OverlapEncoder())
    elif request.param == "onnx":
        words = " ".join((QUERY, *TEXTS, *map(str, range(200)))).split()
        async with OnnxCrossEncoder.open("tiny", write_cross_encoder(tmp_path, words), workers=2) as encoder:
            yield LocalReranker(encoder, workers=2)
    else:
        with rerank_server() as server:
            async with Endpoint.open(f"{server.url}/{request.param}/rerank") as endpoint:
                spec = RerankerSpec("remote", "Remote")
                yield (
                    TeiReranker(spec, endpoint) if request.param == "tei" else CohereReranker(spec, endpoint, "theirs")
                )


async def values(reranker: Reranker, query: str, texts: list[str], *, truncate: bool = True) -> list[float]:
    found = await reranker.scores("acme", query, texts, truncate=truncate, timeout_s=10)
    return [each.value for each in found.scores]


async def test_texts_that_answer_come_first(reranker: Reranker) -> None:
    ranking = await rerank(reranker, "acme", QUERY, TEXTS)
    assert [each.index for each in ranking.results] == [2, 3, 1, 0, 4]


async def test_scores_come_in_the_order_of_the_texts_and_the_same_in_any_company(reranker: Reranker) -> None:
    together = await values(reranker, QUERY, TEXTS)
    alone = [(await values(reranker, QUERY, [text]))[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=0.001)
    assert len(set(together)) > 2
    assert all(0 < each < 1 for each in together)


async def test_the_query_counts(reranker: Reranker) -> None:
    first, second = await values(reranker, "sofa", ["on a sofa", "the cat eats fish"])
    other, another = await values(reranker, "fish", ["on a sofa", "the cat eats fish"])
    assert first > second
    assert another > other


async def test_equal_texts_have_equal_scores(reranker: Reranker) -> None:
    first, between, second = await values(reranker, QUERY, ["the cat eats fish", "fish", "the cat eats fish"])
    assert first == second != between


async def test_as_many_texts_as_the_contract_takes_are_taken(reranker: Reranker) -> None:
    """More than Text Embeddings Inference takes at a time."""
    texts = [f"{number} {'fish' if number == 150 else 'sofa'}" for number in range(200)]
    found = await values(reranker, QUERY, texts)
    assert len(found) == 200
    assert max(range(200), key=found.__getitem__) == 150


async def test_a_text_that_is_too_long_is_cut(reranker: Reranker) -> None:
    short, long = await values(reranker, QUERY, ["fish on a sofa", f"fish {LONG}"])
    _, without = await values(reranker, QUERY, ["fish on a sofa", f"{LONG} fish"])
    assert long > without, "the end was cut, and not the beginning"
    assert short > without


async def test_without_truncation_a_text_that_is_too_long_is_refused(reranker: Reranker) -> None:
    with pytest.raises((TextTooLong, InvalidArgument), match=r"documents|truncate"):
        await values(reranker, QUERY, ["fish", LONG], truncate=False)


async def test_calls_may_run_at_the_same_time(reranker: Reranker) -> None:
    alone = [await values(reranker, query, TEXTS) for query in ("fish", "cat", "sofa", "dog sleeps")]
    at_once = await asyncio.gather(*(values(reranker, query, TEXTS) for query in ("fish", "cat", "sofa", "dog sleeps")))
    for one, other in zip(alone, at_once, strict=True):
        assert other == pytest.approx(one, abs=0.001)


async def test_it_says_which_model_it_is(reranker: Reranker) -> None:
    assert reranker.spec.name == f"models/{reranker.spec.id}"
