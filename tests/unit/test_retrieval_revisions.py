"""Revisions as a process knows them, over a counter and a feed that can fail."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from services.retrieval import revisions as revisions_module
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Bumped, Heard
from services.retrieval.revisions import RevisionsMirror
from tests.retrieval_fakes import FakeRevisions

INDEX = IndexId("uid-docs")


@asynccontextmanager
async def following(counter: FakeRevisions, **fields: float) -> AsyncIterator[RevisionsMirror]:
    mirror = RevisionsMirror(counter, counter, **fields)
    task = asyncio.create_task(mirror.run())
    await until(lambda: mirror.era == 1)
    yield mirror
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Clock:
    """time.monotonic(), some seconds ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(revisions_module, "time", made)
    return made


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def test_a_revision_is_asked_for_once_and_then_told_by_the_feed() -> None:
    counter = FakeRevisions()
    async with following(counter) as mirror:
        assert mirror.at([INDEX]) is None
        assert await mirror.told([INDEX]) == (0,)
        await counter.bump(INDEX)  # another replica
        await until(lambda: mirror.at([INDEX]) == (1,))
        assert counter.asked == 1


async def test_a_write_of_this_process_is_known_when_it_returns_whatever_the_feed_says() -> None:
    counter = FakeRevisions()
    async with following(counter) as mirror:
        await mirror.told([INDEX])
        counter.muted = True
        assert await mirror.bump(INDEX) == 1
        assert mirror.at([INDEX]) == (1,)
        counter.muted = False
        counter.tell(Bumped(INDEX, 1))
        counter.hear()
        await asyncio.sleep(0)
        assert mirror.at([INDEX]) == (1,)


async def test_silence_of_the_feed_makes_revisions_unknown_and_the_counter_is_asked_instead(clock: Clock) -> None:
    counter = FakeRevisions()
    async with following(counter, good_for_s=60) as mirror:
        assert await mirror.told([INDEX]) == (0,)
        counter.muted = True
        await counter.bump(INDEX)
        clock.ahead_s += 61
        assert mirror.at([INDEX]) is None
        assert await mirror.told([INDEX]) == (1,)
        asked = counter.asked
        assert [await mirror.told([INDEX]) for _ in range(10)] == [(1,)] * 10
        assert counter.asked == asked
        clock.ahead_s += 61
        assert mirror.at([INDEX]) is None


async def test_what_was_written_while_the_feed_was_away_is_not_missed() -> None:
    counter = FakeRevisions()
    async with following(counter) as mirror:
        await mirror.told([INDEX])
        era = mirror.era
        counter.muted = True
        await counter.bump(INDEX)
        counter.break_feed()
        while mirror.era == era:
            await asyncio.sleep(0.01)
        assert await mirror.told([INDEX]) == (1,)


async def test_without_the_counter_nothing_is_told_and_it_is_left_alone_for_a_while() -> None:
    counter = FakeRevisions()
    counter.down = True
    mirror = RevisionsMirror(counter, counter, good_for_s=60)
    assert [await mirror.told([INDEX]) for _ in range(10)] == [None] * 10
    assert counter.asked == 1


async def test_a_counter_that_hangs_holds_a_search_no_longer_than_the_patience() -> None:
    class Hanging(FakeRevisions):
        async def current(self, index: IndexId) -> int:
            await asyncio.Event().wait()
            raise AssertionError

    mirror = RevisionsMirror(Hanging(), FakeRevisions(), patience_s=0.02)
    assert await mirror.told([INDEX]) is None
    for task in mirror._asking.values():
        task.cancel()


@pytest.mark.parametrize("found_by", ["asking", "writing"])
async def test_a_counter_that_lost_its_counts_begins_a_new_era(found_by: str, clock: Clock) -> None:
    counter = FakeRevisions()
    async with following(counter, good_for_s=60) as mirror:
        for _ in range(3):
            await mirror.bump(INDEX)
        assert await mirror.told([INDEX]) == (3,)
        counter.lose_all()
        counter.muted = True
        era = mirror.era
        if found_by == "writing":
            assert await mirror.bump(INDEX) == 1
        else:
            clock.ahead_s += 61
        assert await mirror.told([INDEX]) == (int(found_by == "writing"),)
        assert mirror.era > era


async def test_a_bump_told_while_the_counter_is_asked_counts() -> None:
    class Slow(FakeRevisions):
        async def current(self, index: IndexId) -> int:
            found = await super().current(index)
            await go_on.wait()
            return found

    counter, go_on = Slow(), asyncio.Event()
    async with following(counter) as mirror:
        asking = asyncio.create_task(mirror.told([INDEX]))
        await until(lambda: counter.asked)
        await counter.bump(INDEX)
        counter.tell(Heard(0.0))
        await asyncio.sleep(0)
        go_on.set()
        assert await asking in ((1,), None)
        counter.hear()
        await until(lambda: mirror.at([INDEX]) == (1,))


async def test_an_answer_from_before_the_feed_came_back_is_asked_for_again() -> None:
    class Slow(FakeRevisions):
        async def current(self, index: IndexId) -> int:
            found = await super().current(index)
            await go_on.wait()
            return found

    counter, go_on = Slow(), asyncio.Event()
    async with following(counter) as mirror:
        counter.muted = True
        asking = asyncio.create_task(mirror.told([INDEX]))
        await until(lambda: counter.asked)
        await counter.bump(INDEX)  # after the counter was read, and not told
        counter.muted = False
        mirror._begin_anew()
        go_on.set()
        assert await asking == (1,)


async def test_no_more_is_known_than_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revisions_module, "_KNOWN", 10)
    counter = FakeRevisions()
    async with following(counter) as mirror:
        for number in range(100):
            assert await mirror.told([IndexId(f"uid-{number}")]) == (0,)
        assert len(mirror._known) <= 10
