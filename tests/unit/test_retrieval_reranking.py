"""The order that a reranker gives, and what becomes of a search whose reranker cannot be had."""

from collections.abc import Sequence

import pytest

from services.mesh.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    ModelNotFound,
    TooManyRequests,
)
from services.retrieval.chunks import Rerank, ScoredChunk, StageScore
from services.retrieval.ranking import Hit
from services.retrieval.reranking import reranked
from services.retrieval.stages import Degraded, Stages
from tests.retrieval_fakes import FakeReranker, chunk, view


def hits_of(*texts: str) -> list[Hit]:
    """Hits in this order, as a dense stage scored them."""
    return [
        Hit(ScoredChunk(chunk(text, document=text), 1 / rank, (StageScore("dense", 1 / rank, rank),)), view())
        for rank, text in enumerate(texts, start=1)
    ]


async def ordered(
    hits: Sequence[Hit],
    reranker: FakeReranker,
    stages: Stages | None = None,
    *,
    model: str = "",
    top_n: int = 50,
    asked: bool = True,
) -> Sequence[Hit]:
    return await reranked(hits, "query", Rerank(model, top_n), reranker, stages or Stages(), asked=asked)


def texts(hits: Sequence[Hit]) -> list[str]:
    return [hit.found.chunk.text for hit in hits]


async def test_the_best_by_the_model_come_first_with_its_score_and_rank() -> None:
    found = await ordered(hits_of("a", "b", "c"), FakeReranker(a=0.1, b=-2.0, c=7.5))
    assert texts(found) == ["c", "a", "b"]
    assert [hit.found.score for hit in found] == [7.5, 0.1, -2.0]
    assert found[0].found.stages == (StageScore("dense", 1 / 3, 3), StageScore("rerank", 7.5, 1))


async def test_equals_keep_their_former_order() -> None:
    assert texts(await ordered(hits_of("a", "b", "c", "d"), FakeReranker(a=0.5, b=0.5, c=0.9, d=0.5))) == list("cabd")


async def test_what_the_model_did_not_read_follows_as_it_was_with_lower_scores() -> None:
    reranker = FakeReranker(a=0.2, b=0.9, d=1.0)
    found = await ordered(hits_of("a", "b", "c", "d", "e"), reranker, top_n=2)
    assert texts(found) == ["b", "a", "c", "d", "e"]
    assert [hit.found.score for hit in found] == pytest.approx([0.9, 0.2, -0.8, -1.8, -2.8])
    assert [[stage.stage for stage in hit.found.stages] for hit in found[1:3]] == [["dense", "rerank"], ["dense"]]
    assert reranker.asked == [("", "query", ["a", "b"])]


async def test_passages_are_read_with_their_title_and_headings() -> None:
    reranker = FakeReranker()
    read = Hit(ScoredChunk(chunk("It is renewed yearly.", context="Licence > Fees"), 1.0, ()), view())
    await ordered([read], reranker, model="models/some")
    assert reranker.asked == [("models/some", "query", ["Licence > Fees\nIt is renewed yearly."])]


async def test_a_very_long_passage_is_cut_to_what_is_taken() -> None:
    reranker = FakeReranker()
    await ordered(hits_of("a" + "ä" * 40_000, "b" * 65_536), reranker)
    ((_, _, passages),) = reranker.asked
    assert [len(each.encode()) for each in passages] == [65_535, 65_536]
    assert passages[0] == "a" + "ä" * 32_767


async def test_nobody_is_asked_about_nothing() -> None:
    reranker = FakeReranker()
    assert await ordered([], reranker) == []
    assert reranker.asked == []


UNABLE = [
    DependencyUnavailable("rerank.example answered 503"),
    DeadlineExceeded("reranking did not end in time"),
    TooManyRequests("too many wait"),
    FailedPrecondition("no reranking model is configured"),
]


@pytest.mark.parametrize("error", UNABLE, ids=lambda error: error.reason)
async def test_a_reranker_that_cannot_be_had_leaves_the_order_and_is_told_of(error: DomainError) -> None:
    reranker, hits, stages = FakeReranker(b=1.0), hits_of("a", "b"), Stages()
    reranker.error = error
    assert await ordered(hits, reranker, stages) == hits
    assert stages.degraded == [Degraded("rerank", error.message)]
    with pytest.raises(type(error)):
        await ordered(hits, reranker, Stages(require_all=True))


async def test_a_model_that_there_is_not_is_the_callers_error_if_the_caller_named_it() -> None:
    reranker, hits, stages = FakeReranker(), hits_of("a", "b"), Stages()
    reranker.error = ModelNotFound("no reranking model 'x'; there are: tiny")
    with pytest.raises(InvalidArgument, match=r"^rerank\.model: no reranking model 'x'; there are: tiny$") as caught:
        await ordered(hits, reranker, stages, model="x")
    assert caught.value.violations[0].field == "rerank.model"
    assert await ordered(hits, reranker, stages, model="x", asked=False) == hits
    assert [each.stage for each in stages.degraded] == ["rerank"]


async def test_a_reranker_that_takes_too_long_is_given_up_in_time() -> None:
    reranker, hits, stages = FakeReranker(b=1.0), hits_of("a", "b"), Stages(timeout_s=0.05)
    reranker.gate.clear()
    assert await ordered(hits, reranker, stages) == hits
    assert stages.degraded[0].reason.startswith("the reranking model did not answer within")
    with pytest.raises(DeadlineExceeded):
        await ordered(hits, reranker, Stages(timeout_s=0.01, require_all=True))


async def test_an_error_that_nobody_foresaw_is_none_to_be_passed_over() -> None:
    reranker = FakeReranker()
    reranker.error = RuntimeError("broken")
    with pytest.raises(RuntimeError):
        await ordered(hits_of("a"), reranker)
