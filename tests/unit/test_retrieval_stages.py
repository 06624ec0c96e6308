"""What a stage of a search may take, and what is left of its time for those after it."""

import asyncio
from math import inf

import pytest

from services.mesh.calls import bound_s, bounded, detached
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable
from services.retrieval.stages import SHARES, Stages

HOUR_S = 3600.0


async def never() -> None:
    await asyncio.Event().wait()


async def bounds() -> float:
    return bound_s()


def test_a_stage_gets_its_share_and_the_answer_keeps_some() -> None:
    stages = Stages(timeout_s=HOUR_S)
    for stage, share in SHARES.items():
        assert 0 < share.of_time < 1
        budget_s = stages.budget_s(stage)
        assert budget_s is not None
        assert budget_s == pytest.approx(share.of_time * HOUR_S, rel=0.001)
    left_s = stages.remaining_s()
    assert left_s is not None
    assert left_s <= HOUR_S - 0.05
    short_s = Stages(timeout_s=0.1).remaining_s()
    assert short_s is not None
    assert short_s <= 0.09


async def test_a_stage_that_takes_longer_is_given_up_and_names_itself() -> None:
    stages = Stages(timeout_s=0.02)
    with pytest.raises(DeadlineExceeded, match=r"^the index did not answer within \S+ s, .* stage 'store'") as raised:
        await stages.within("store", never())
    assert raised.value.metadata == {"stage": "store"}


async def test_time_that_is_used_up_ends_a_stage_at_its_first_wait_and_lets_go_what_need_not_wait() -> None:
    stages = Stages(timeout_s=0.0)
    assert await stages.within("store", bounds()) == 0
    with pytest.raises(DeadlineExceeded):
        await stages.within("store", never())


async def test_calls_of_a_stage_end_with_it() -> None:
    assert await Stages(timeout_s=HOUR_S).within("rerank", bounds()) == pytest.approx(
        SHARES["rerank"].of_time * HOUR_S, rel=0.01
    )
    assert bound_s() == inf


async def test_without_a_deadline_nothing_is_bounded() -> None:
    stages = Stages()
    assert await stages.within("embed", bounds()) == inf
    assert (stages.budget_s("embed"), stages.remaining_s()) == (None, None)


async def test_a_timeout_of_the_work_itself_stays_what_it_is() -> None:
    async def timing_out() -> None:
        raise TimeoutError("of its own")

    with pytest.raises(TimeoutError, match="of its own"):
        await Stages(timeout_s=HOUR_S).within("embed", timing_out())


def test_bounds_only_shrink_and_do_not_reach_what_is_detached() -> None:
    with bounded(2.0), bounded(HOUR_S):
        assert bound_s() <= 2.0
        with detached():
            assert bound_s() == inf
        with bounded(-1.0):
            assert bound_s() == 0
    assert bound_s() == inf


def test_a_stage_left_out_is_noted_or_fails_the_search() -> None:
    stages = Stages()
    stages.left_out("rerank", DependencyUnavailable("embedding is unavailable"), collection="docs")
    assert [(each.stage, each.reason, each.collection) for each in stages.degraded] == [
        ("rerank", "embedding is unavailable", "docs")
    ]
    with pytest.raises(DependencyUnavailable):
        Stages(require_all=True).left_out("rerank", DependencyUnavailable("embedding is unavailable"))
