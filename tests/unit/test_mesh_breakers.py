"""Circuit breakers: when they open, whom they let through, what counts, what they tell."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.mesh.breakers import Breaker, Limits, State, breaker_of, breakers, protecting
from services.mesh.calls import bounded
from services.mesh.errors import DependencyUnavailable, JobNotFound
from services.mesh.settings import MeshSettings
from services.mesh.status import code_of, reason_of, retry_after_s, status_of


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker("redis", clock=clock)


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        with suppress(ConnectionRefusedError), breaker.asking():
            raise ConnectionRefusedError(111, "secret-host:6379")


def state(breaker: Breaker) -> State:
    return breaker.state


def answer(breaker: Breaker) -> None:
    with breaker.asking():
        pass


def test_it_opens_after_five_failures_in_a_row_and_asks_no_more(breaker: Breaker) -> None:
    fail(breaker, 4)
    answer(breaker)
    fail(breaker, 4)
    assert state(breaker) is State.CLOSED
    fail(breaker)
    assert (breaker.state, breaker.failures) == (State.OPEN, 5)
    with pytest.raises(DependencyUnavailable), breaker.asking():
        pytest.fail("it was asked")


def test_a_refusal_names_the_dependency_and_says_when_to_come_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now_s += 12
    with pytest.raises(DependencyUnavailable) as refused:
        breaker.asking()
    status = status_of(refused.value)
    assert (code_of(status), reason_of(status)) == (grpc.StatusCode.UNAVAILABLE, "DEPENDENCY_UNAVAILABLE")
    assert retry_after_s(status) == pytest.approx(18)
    assert refused.value.metadata == {"service": "redis"}


def test_after_thirty_seconds_one_question_probes_and_its_answer_closes_it(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now_s += 29.9
    with pytest.raises(DependencyUnavailable):
        breaker.asking()
    clock.now_s += 0.1
    with breaker.asking():
        assert state(breaker) is State.HALF_OPEN
        for _ in range(3):
            with pytest.raises(DependencyUnavailable):
                breaker.asking()
    assert (breaker.state, breaker.failures, breaker.opened_at) == (State.CLOSED, 0, None)


def test_a_probe_that_fails_opens_it_for_as_long_again(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    opened_at = breaker.opened_at
    clock.now_s += 30
    fail(breaker)
    assert (breaker.state, breaker.opened_at) == (State.OPEN, opened_at)
    clock.now_s += 29.9
    with pytest.raises(DependencyUnavailable):
        breaker.asking()


async def test_a_probe_that_is_cancelled_leaves_the_next_question_to_probe(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now_s += 30
    asked = asyncio.Event()

    async def probe() -> None:
        with breaker.asking():
            asked.set()
            await asyncio.Event().wait()

    probing = asyncio.create_task(probe())
    await asked.wait()
    probing.cancel()
    await asyncio.wait({probing})
    assert state(breaker) is State.HALF_OPEN
    answer(breaker)
    assert state(breaker) is State.CLOSED


def test_what_was_asked_before_it_opened_decides_nothing_after(breaker: Breaker, clock: Clock) -> None:
    early, late = breaker.asking(), breaker.asking()
    fail(breaker, 5)
    early.settle()
    assert state(breaker) is State.OPEN
    clock.now_s += 30
    with breaker.asking():
        late.settle(TimeoutError())
        assert state(breaker) is State.HALF_OPEN
    assert state(breaker) is State.CLOSED


def test_a_probe_that_says_nothing_for_long_keeps_nobody_else_from_probing(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 5)
    clock.now_s += 30
    silent = breaker.asking()
    clock.now_s += 1.9
    with pytest.raises(DependencyUnavailable):
        breaker.asking()
    clock.now_s += 0.1
    answer(breaker)
    assert state(breaker) is State.CLOSED
    silent.settle(TimeoutError())
    assert breaker.failures == 0


def test_an_answer_that_is_an_error_is_an_answer(breaker: Breaker) -> None:
    fail(breaker, 4)
    with pytest.raises(JobNotFound), breaker.asking():
        raise JobNotFound("no such job")
    assert breaker.failures == 0


async def test_questions_that_callers_give_up_do_not_count(breaker: Breaker) -> None:
    fail(breaker, 4)
    with suppress(asyncio.CancelledError), breaker.asking():
        raise asyncio.CancelledError
    assert breaker.failures == 4


async def test_a_deadline_counts_only_where_the_dependency_had_its_time() -> None:
    for slow_s, counted in ((60.0, 0), (0.0, 1)):
        breaker = Breaker("redis", Limits(slow_s=slow_s))
        with suppress(asyncio.CancelledError), bounded(0), breaker.asking():
            raise asyncio.CancelledError
        assert breaker.failures == counted


async def test_a_look_that_is_answered_lets_a_probe_through_early() -> None:
    breaker = Breaker("redis", Limits(look_s=0.01))
    away, looked = True, asyncio.Event()

    async def look() -> None:
        looked.set()
        if away:
            raise ConnectionRefusedError

    async with breaker.looking(look):
        fail(breaker, 5)
        await looked.wait()
        assert state(breaker) is State.OPEN
        away = False
        while state(breaker) is State.OPEN:
            looked.clear()
            await looked.wait()
            await asyncio.sleep(0)
        answer(breaker)
    assert state(breaker) is State.CLOSED


async def test_nothing_looks_once_the_block_has_ended() -> None:
    breaker = Breaker("redis", Limits(look_s=0.001))
    asked = asyncio.Event()

    async def look() -> None:
        asked.set()
        await asyncio.Event().wait()

    before = asyncio.all_tasks()
    async with breaker.looking(look):
        fail(breaker, 5)
        await asked.wait()
    assert asyncio.all_tasks() == before


async def test_a_part_that_fails_is_left_alone_alone_and_looks_as_long_as_its_whole() -> None:
    whole, asked = Breaker("store", Limits(look_s=0.001)), asyncio.Event()

    async def look() -> None:
        asked.set()
        await asyncio.Event().wait()

    part, before = whole.part(look), asyncio.all_tasks()
    async with whole.looking(look):
        fail(part, 5)
        assert (state(part), state(whole)) == (State.OPEN, State.CLOSED)
        await asked.wait()
    assert asyncio.all_tasks() == before


def test_each_transition_is_logged_and_says_nothing_secret(breaker: Breaker, clock: Clock) -> None:
    with capture_logs() as logs:
        fail(breaker, 5)
        clock.now_s += 30
        fail(breaker)
        clock.now_s += 30
        answer(breaker)
    assert [each["event"] for each in logs] == [
        "breaker open",
        "breaker half-open",
        "breaker open",
        "breaker half-open",
        "breaker closed",
    ]
    assert logs[0]["error"] == "ConnectionRefusedError: Connection refused"
    assert "secret-host" not in str(logs)


@pytest.fixture
async def settings(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MeshSettings]:
    monkeypatch.setenv("RAGWEAVE_BREAKER_FAILURES", "2")
    monkeypatch.setenv("RAGWEAVE_BREAKER_OPEN_S", "3")
    yield MeshSettings()


def test_a_process_has_one_a_dependency_by_its_settings_and_shows_it(settings: MeshSettings) -> None:
    def shown(name: str) -> float | None:
        return REGISTRY.get_sample_value(name, {"dependency": "a store"})

    with protecting(settings) as own:
        with own.wiring():
            made = breaker_of("a store")
            assert breaker_of("a store") is made
        assert made in breakers()
        assert shown("ragweave_breaker_state") == 0
        refused = shown("ragweave_breaker_refusals_total") or 0
        fail(made, 2)
        assert shown("ragweave_breaker_state") == 2
        with pytest.raises(DependencyUnavailable):
            made.asking()
        assert shown("ragweave_breaker_refusals_total") == refused + 1
        assert made.retry_after_s <= 3
    assert made not in breakers()
    assert shown("ragweave_breaker_state") is None


def test_outside_a_process_each_has_its_own() -> None:
    assert breaker_of("a store") is not breaker_of("a store")
