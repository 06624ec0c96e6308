"""Which calls run at once, which wait, and which are refused because waiting would be in vain."""

import asyncio
from collections.abc import Awaitable

import pytest

from services.mesh.admission import Gate, Reason, Refused

SEARCH = "Search"


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def begun(entering: Awaitable[None]) -> "asyncio.Task[None]":
    """The call, once it runs, waits or has been refused."""
    task = asyncio.ensure_future(entering)
    for _ in range(3):
        await asyncio.sleep(0)
    assert isinstance(task, asyncio.Task)
    return task


async def busy(clock: Clock, *, running: int = 2, waiting: int = 100, each_s: float = 0.1) -> Gate:
    """A gate whose places are all taken, and which has seen calls end `each_s` apart, each `running` times as long."""
    gate = Gate(running=running, waiting=waiting, clock=clock)
    for _ in range(running):
        await gate.enter(SEARCH, None)
    for _ in range(200):
        follower = await begun(gate.enter(SEARCH, None))
        clock.now_s += each_s
        gate.leave(SEARCH, running * each_s)
        await follower
    return gate


async def test_calls_run_at_once_while_there_is_room_whatever_their_deadline() -> None:
    gate = Gate(running=2, waiting=0)
    await gate.enter(SEARCH, 0.001)
    gate.leave(SEARCH, took_s=10.0)
    await gate.enter(SEARCH, 0.001)
    await gate.enter(SEARCH, 0.001)
    assert not gate.waiting


async def test_others_wait_in_line_and_run_in_their_order() -> None:
    gate = Gate(running=1, waiting=2)
    await gate.enter(SEARCH, None)
    first = await begun(gate.enter(SEARCH, None))
    second = await begun(gate.enter(SEARCH, None))
    assert gate.waiting == 2
    gate.leave(SEARCH, 0.1)
    await first
    assert not second.done()
    gate.leave(SEARCH, 0.1)
    await second


async def test_no_more_wait_than_may() -> None:
    gate = Gate(running=1, waiting=1)
    await gate.enter(SEARCH, None)
    waiting = await begun(gate.enter(SEARCH, None))
    with pytest.raises(Refused) as refused:
        await gate.enter(SEARCH, None)
    assert refused.value.reason is Reason.QUEUE_FULL
    waiting.cancel()


async def test_who_would_be_late_is_refused_at_once_and_told_when_to_come_back() -> None:
    clock = Clock()
    gate = await busy(clock, running=2, each_s=0.1)
    line = [await begun(gate.enter(SEARCH, None)) for _ in range(9)]
    # The tenth waits 10 ends, 1 s; then it takes 0.2 s itself. Three quarters of its time must cover that.
    with pytest.raises(Refused) as refused:
        await gate.enter(SEARCH, 1.55)
    assert refused.value.reason is Reason.TOO_LATE
    assert refused.value.retry_after_s == pytest.approx(1.0, rel=0.02)
    admitted = await begun(gate.enter(SEARCH, 1.65))
    assert not admitted.done()
    for each in (*line, admitted):
        each.cancel()


async def test_who_comes_with_most_of_its_time_gone_is_refused_even_where_there_is_room() -> None:
    gate = Gate(running=2, waiting=0)
    await gate.enter(SEARCH, 0.9, given_s=2.0)  # nobody else is there: it may still make it
    with pytest.raises(Refused) as refused:
        await gate.enter(SEARCH, 0.9, given_s=2.0)
    assert refused.value.reason is Reason.STALE
    await gate.enter(SEARCH, 1.1, given_s=2.0)


async def test_who_gives_its_calls_no_time_tells_nothing_of_what_the_service_can_do() -> None:
    gate = Gate(running=2, waiting=0)
    await gate.enter(SEARCH, None)
    await gate.enter(SEARCH, 0.001, given_s=0.02)


async def test_what_a_method_takes_counts_for_that_method_alone() -> None:
    clock = Clock()
    gate = await busy(clock, running=2, each_s=0.1)
    slow = await begun(gate.enter("Batch", None))
    gate.leave(SEARCH, 0.2)
    await slow
    gate.leave("Batch", 60.0)
    await gate.enter(SEARCH, None)
    with pytest.raises(Refused):
        await gate.enter("Batch", 10.0)
    waiting = await begun(gate.enter(SEARCH, 10.0))
    assert not waiting.done()
    waiting.cancel()


async def test_who_waited_longer_than_was_foreseen_does_not_run_for_nothing_and_gives_its_place_on() -> None:
    clock = Clock()
    gate = await busy(clock, running=1, each_s=0.1)
    late = await begun(gate.enter(SEARCH, 1.0))
    patient = await begun(gate.enter(SEARCH, 60.0))
    clock.now_s += 0.95  # what ran took longer than any before
    gate.leave(SEARCH, 0.95)
    with pytest.raises(Refused) as refused:
        await late
    assert refused.value.reason is Reason.WAITED
    await patient


async def test_who_gives_up_while_waiting_leaves_the_line() -> None:
    gate = Gate(running=1, waiting=2)
    await gate.enter(SEARCH, None)
    gone, patient = await begun(gate.enter(SEARCH, None)), await begun(gate.enter(SEARCH, None))
    gone.cancel()
    await asyncio.wait([gone])
    assert gate.waiting == 1
    gate.leave(SEARCH, 0.1)
    await patient


@pytest.mark.parametrize("cancelled_first", [True, False])
async def test_who_gives_up_as_its_turn_comes_takes_nobody_s_place(cancelled_first: bool) -> None:
    gate = Gate(running=1, waiting=2)
    await gate.enter(SEARCH, None)
    gone, patient = await begun(gate.enter(SEARCH, None)), await begun(gate.enter(SEARCH, None))
    if cancelled_first:
        gone.cancel()
        gate.leave(SEARCH, 0.1)
    else:
        gate.leave(SEARCH, 0.1)
        gone.cancel()
    await asyncio.wait([gone])
    assert gone.cancelled()
    await patient
    gate.leave(SEARCH, 0.1)
    await gate.enter(SEARCH, 0.001)  # there is room again


async def test_what_was_slow_once_is_forgotten_once_calls_end_quickly_again() -> None:
    clock = Clock()
    gate = await busy(clock, running=2, each_s=10.0)
    with pytest.raises(Refused):
        await gate.enter(SEARCH, 5.0)
    for _ in range(400):
        follower = await begun(gate.enter(SEARCH, None))
        clock.now_s += 0.01
        gate.leave(SEARCH, 0.02)
        await follower
    waiting = await begun(gate.enter(SEARCH, 5.0))
    assert not waiting.done()
    waiting.cancel()
