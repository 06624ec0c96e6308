"""Work shared by callers of different patience."""

import asyncio
from dataclasses import dataclass

import pytest

from services.mesh.errors import DependencyUnavailable
from services.retrieval.flights import Flights


@dataclass(frozen=True)
class Brought:
    number: int
    whole: bool = True


class Work:
    """Runs when told, and says how often it was begun and given up."""

    def __init__(self, *outcomes: Brought | Exception) -> None:
        self.begun = self.given_up = 0
        self.go_on = asyncio.Event()
        self._outcomes = outcomes or (Brought(1), Brought(2))

    async def __call__(self) -> Brought:
        outcome = self._outcomes[self.begun]
        self.begun += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def fly(
    flights: Flights[Brought], work: Work, timeout_s: float | None = None, revision: int = 1
) -> "asyncio.Task[tuple[Brought, bool]]":
    return asyncio.create_task(flights.fly("key", (revision,), timeout_s, work))


async def begun(work: Work, times: int = 1) -> None:
    while work.begun < times:
        await asyncio.sleep(0)


async def test_what_is_asked_at_the_same_time_is_done_once() -> None:
    flights: Flights[Brought] = Flights()
    work = Work()
    tasks = [fly(flights, work, 5.0) for _ in range(100)]
    await begun(work)
    work.go_on.set()
    outcomes = await asyncio.gather(*tasks)
    assert work.begun == 1 and {each for each, _ in outcomes} == {Brought(1)}
    assert [followed for _, followed in outcomes].count(False) == 1
    assert not flights._flights


async def test_the_one_who_began_may_leave_and_the_others_have_their_answer() -> None:
    flights: Flights[Brought] = Flights()
    work = Work()
    leader, *others = (fly(flights, work, 5.0) for _ in range(10))
    await begun(work)
    await asyncio.sleep(0)
    leader.cancel()
    work.go_on.set()
    assert await asyncio.gather(*others) == [(Brought(1), True)] * 9
    assert (work.begun, work.given_up) == (1, 0)


async def test_what_nobody_waits_for_any_more_is_given_up() -> None:
    flights: Flights[Brought] = Flights()
    work = Work()
    tasks = [fly(flights, work, 5.0) for _ in range(3)]
    await begun(work)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while flights._flights:
        await asyncio.sleep(0)
    assert work.given_up == 1


async def test_work_begun_before_a_write_is_not_shared_by_who_asks_after_it() -> None:
    flights: Flights[Brought] = Flights()
    work = Work()
    before = fly(flights, work, revision=1)
    await begun(work)
    after, again = fly(flights, work, revision=2), fly(flights, work, revision=2)
    await begun(work, 2)
    work.go_on.set()
    assert await before == (Brought(1), False)
    assert {await after, await again} == {(Brought(2), False), (Brought(2), True)}


@pytest.mark.parametrize("first", [Brought(1, whole=False), DependencyUnavailable("too slow")], ids=["part", "error"])
async def test_who_has_more_time_does_better_than_who_began_with_little(first: Brought | Exception) -> None:
    flights: Flights[Brought] = Flights()
    work = Work(first, Brought(2))
    hasty = fly(flights, work, 1.0)
    await begun(work)
    patient = fly(flights, work, 60.0)
    await asyncio.sleep(0)
    work.go_on.set()
    assert await patient == (Brought(2), False)
    await asyncio.gather(hasty, return_exceptions=True)


@pytest.mark.parametrize("first", [Brought(1, whole=False), DependencyUnavailable("down")], ids=["part", "error"])
async def test_who_has_no_more_time_shares_what_went_wrong(first: Brought | Exception) -> None:
    flights: Flights[Brought] = Flights()
    work = Work(first)
    tasks = [fly(flights, work, 5.0) for _ in range(100)]
    await begun(work)
    work.go_on.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert work.begun == 1
    assert all(outcome is first or outcome[0] is first for outcome in outcomes)  # type: ignore[index]


async def test_a_follower_short_of_time_does_the_work_itself_while_there_is_some_left() -> None:
    flights: Flights[Brought] = Flights()
    slow, own = Work(), Work(Brought(7))
    own.go_on.set()
    leader = fly(flights, slow, 60.0)
    await begun(slow)
    assert await fly(flights, own, 0.05) == (Brought(7), False)
    slow.go_on.set()
    assert await leader == (Brought(1), False)


async def test_a_follower_is_not_ended_by_the_end_of_the_one_who_began() -> None:
    flights: Flights[Brought] = Flights()
    work = Work(ZeroDivisionError("a defect"), Brought(2))  # type: ignore[arg-type]
    leader = fly(flights, work, 5.0)
    await begun(work)
    follower = fly(flights, work, 5.0)
    await asyncio.sleep(0)
    work.go_on.set()
    with pytest.raises(ZeroDivisionError):
        await leader
    assert await follower == (Brought(2), False)
