"""How texts are ordered by a query, and how those of concurrent calls are scheduled, shared, refused and dropped."""

import asyncio

import pytest

from services.embedding.models import Catalog, RerankerSpec
from services.embedding.ports import Score, Scores
from services.embedding.reranker import LocalReranker, Reranking, rerank
from services.mesh.errors import (
    DependencyUnavailable,
    FailedPrecondition,
    InvalidArgument,
    ModelNotFound,
    TextTooLong,
    TooManyRequests,
)
from tests.embedding_fakes import OverlapEncoder

QUERY = "who eats fish"


class Fixed:
    """Gives the scores it was made with; fulfils Reranker."""

    spec = RerankerSpec("fixed", "Fixed")

    def __init__(self, *values: float) -> None:
        self._values = values

    async def scores(self, *_: object, **__: object) -> Scores:
        return Scores([Score(value) for value in self._values], 5)


@pytest.fixture
def encoder() -> OverlapEncoder:
    return OverlapEncoder()


@pytest.fixture
def reranker(encoder: OverlapEncoder) -> LocalReranker:
    """One worker, so that order can be seen."""
    return LocalReranker(encoder, workers=1, max_queue=20, batch_tokens=40)


def start(reranker: LocalReranker, *texts: str, tenant: str = "acme") -> "asyncio.Task[Reranking]":
    return asyncio.create_task(rerank(reranker, tenant, QUERY, texts))


async def queued() -> None:
    """Lets everything that can run do so: fakes never wait for time."""
    for _ in range(20):
        await asyncio.sleep(0)


async def busy(encoder: OverlapEncoder, reranker: LocalReranker) -> "asyncio.Task[Reranking]":
    """Holds the only worker until the encoder's gate opens."""
    encoder.gate.clear()
    task = start(reranker, "hold the worker")
    await encoder.started.acquire()
    return task


async def test_the_best_come_first_and_equals_in_the_order_they_were_named() -> None:
    found = await rerank(Fixed(0.5, -3.0, 0.5, 7.0, 0.5), "acme", QUERY, list("abcde"))
    assert [each.index for each in found.results] == [3, 0, 2, 4, 1]
    assert [each.score.value for each in found.results] == [7.0, 0.5, 0.5, 0.5, -3.0]
    assert found.total_tokens == 5


@pytest.mark.parametrize(("top_n", "indices"), [(0, [1, 2, 0]), (2, [1, 2]), (3, [1, 2, 0]), (200, [1, 2, 0])])
async def test_no_more_come_back_than_asked_for(top_n: int, indices: list[int]) -> None:
    found = await rerank(Fixed(0.1, 0.9, 0.5), "acme", QUERY, list("abc"), top_n=top_n)
    assert [each.index for each in found.results] == indices


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
async def test_a_score_that_is_no_number_fails_the_call(value: float) -> None:
    with pytest.raises(DependencyUnavailable, match="models/fixed"):
        await rerank(Fixed(0.1, value), "acme", QUERY, ["a", "b"])


async def test_blank_texts_are_named(reranker: LocalReranker) -> None:
    with pytest.raises(InvalidArgument, match=r"^query: holds no text$") as caught:
        await rerank(reranker, "acme", " \n", ["a", "\t", "b", " "])
    assert [each.field for each in caught.value.violations] == ["query", "documents[1]", "documents[3]"]


async def test_texts_of_like_length_share_a_batch_whoever_sent_them(
    encoder: OverlapEncoder, reranker: LocalReranker
) -> None:
    holding = await busy(encoder, reranker)
    tasks = [start(reranker, "a b c", "a " * 18, "a b"), start(reranker, "d e", "d " * 17)]
    await queued()
    encoder.gate.set()
    await asyncio.gather(holding, *tasks)
    assert encoder.batches[1:] == [[2, 2, 3], [18], [17]]


async def test_what_two_calls_ask_at_a_time_is_read_once_and_apart_for_each_tenant(
    encoder: OverlapEncoder, reranker: LocalReranker
) -> None:
    holding = await busy(encoder, reranker)
    tasks = [
        start(reranker, "cats eat"),
        start(reranker, "cats eat", "cats eat"),
        start(reranker, "cats eat", tenant="b"),
    ]
    await queued()
    encoder.gate.set()
    _, one, two, other = await asyncio.gather(holding, *tasks)
    assert encoder.batches[1:] == [[2, 2]]
    assert len({each.score for found in (one, two, other) for each in found.results}) == 1
    assert len(two.results) == 2


async def test_a_query_and_a_text_are_not_mistaken_for_another_pair(reranker: LocalReranker) -> None:
    one, other = await asyncio.gather(
        rerank(reranker, "acme", "fish a", ["fish"]), rerank(reranker, "acme", "fish", ["a fish"])
    )
    assert one.results != other.results


async def test_texts_of_a_call_that_left_are_not_read(encoder: OverlapEncoder, reranker: LocalReranker) -> None:
    holding = await busy(encoder, reranker)
    leaving, staying = start(reranker, "gone a", "both b", "gone c"), start(reranker, "both b")
    await queued()
    leaving.cancel()
    await queued()
    encoder.gate.set()
    await asyncio.gather(holding, staying)
    assert encoder.batches[1:] == [[2]]


async def test_more_than_may_wait_are_refused_and_the_rest_is_served(
    encoder: OverlapEncoder, reranker: LocalReranker
) -> None:
    holding = await busy(encoder, reranker)
    waiting = start(reranker, *(f"text {number}" for number in range(15)))
    await queued()
    with pytest.raises(TooManyRequests, match="models/overlap has too many texts to rerank waiting") as caught:
        await start(reranker, *(f"other {number}" for number in range(6)))
    assert caught.value.retry_after_s
    encoder.gate.set()
    await asyncio.gather(holding, waiting)


async def test_an_error_of_the_model_reaches_every_caller_and_no_later_one(
    encoder: OverlapEncoder, reranker: LocalReranker
) -> None:
    encoder.error = RuntimeError("out of memory")
    for found in await asyncio.gather(start(reranker, "a"), start(reranker, "a b"), return_exceptions=True):
        assert found is encoder.error
    encoder.error = None
    assert (await start(reranker, "a")).results


async def test_what_is_too_long_is_named_where_it_is_not_to_be_cut(reranker: LocalReranker) -> None:
    texts = ["a", "b " * 40, "c", "d " * 50]
    assert [each.score.truncated for each in (await start(reranker, *texts)).results].count(True) == 2
    with pytest.raises(TextTooLong, match=r"^documents\[1\]: has 46 tokens together with the query") as caught:
        await rerank(reranker, "acme", QUERY, texts, truncate=False)
    assert [each.field for each in caught.value.violations] == ["documents[1]", "documents[3]"]


def test_the_first_reranker_is_the_default_and_unknown_ones_are_told_from_those_there_are() -> None:
    one, two = Fixed(), Fixed()
    two.spec = RerankerSpec("other", "Other")  # type: ignore[misc]
    catalog = Catalog([], [one, two])
    assert catalog.reranker("") is catalog.reranker("fixed") is catalog.reranker("models/fixed") is one
    assert catalog.reranker("models/other") is two
    assert [catalog.is_default(each.spec) for each in (one, two)] == [True, False]
    with pytest.raises(ModelNotFound, match="no reranking model 'none'; there are: fixed, other"):
        catalog.reranker("none")


def test_without_rerankers_every_name_is_told_that_there_are_none() -> None:
    for name in ("", "some"):
        with pytest.raises(FailedPrecondition, match="no reranking model is configured"):
            Catalog([]).reranker(name)


def test_no_two_models_have_one_id() -> None:
    with pytest.raises(ValueError, match="two models have the same id"):
        Catalog([], [Fixed(), Fixed()])
