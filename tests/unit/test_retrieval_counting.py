"""Searches are counted as the cache answered them, and no call of theirs waits for it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from services.mesh.errors import CollectionNotFound
from services.retrieval.query import CacheControl
from services.retrieval.usage import Search, Usage
from tests.retrieval_fakes import FakeRevisions, FakeUsageSink
from tests.retrieval_replica import CountingStore, Replica


async def counted(made: Replica) -> dict[str, dict[str, int]]:
    """Figures by collection, "" being all searches, without those that are 0."""
    await made.usage.flush()
    names = ("queries", "errors", "cache_hits", "degraded", "zero_results")
    return {
        each.collection_id: {name: count for name in names if (count := getattr(each, name))}
        for each in made.sink.tallies
    }


async def test_an_answer_given_again_counts_as_a_search_and_a_cache_hit() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        await made.write("d1")
        for control in (CacheControl.DEFAULT, CacheControl.DEFAULT, CacheControl.BYPASS, CacheControl.REFRESH):
            await made.found(cache_control=control)
        figures = {"queries": 4, "cache_hits": 1}
        assert await counted(made) == {"": figures, "docs": figures}


async def test_of_searches_at_once_that_share_an_answer_each_counts() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        await made.write("d1")
        made.store.after.clear()
        asking = [asyncio.create_task(made.found()) for _ in range(10)]
        while not made.store.searches:
            await asyncio.sleep(0)
        made.store.after.set()
        await asyncio.gather(*asking)
        figures = {"queries": 10, "cache_hits": 9}
        assert await counted(made) == {"": figures, "docs": figures}


async def test_what_was_found_counts_by_what_the_answer_says_also_when_it_is_given_again() -> None:
    async with Replica(CountingStore(), FakeRevisions()).running() as made:
        await made.write("d1")
        for _ in range(2):
            assert not await made.texts(filter='document = "d9"')
        made.embedder.down = True
        assert (await made.found(text="wolves")).degraded_stages
        with pytest.raises(CollectionNotFound):
            await made.found(collection="nowhere")
        figures = {"queries": 3, "cache_hits": 1, "degraded": 1, "zero_results": 3}
        assert await counted(made) == {"": {**figures, "queries": 4, "errors": 1}, "docs": figures}


async def test_an_answer_without_the_cache_is_a_degraded_one() -> None:
    counter = FakeRevisions()
    made = Replica(CountingStore(), counter)
    await made.write("d1")
    counter.down = True
    assert (await made.found()).degraded_stages
    figures = {"queries": 1, "degraded": 1}
    assert await counted(made) == {"": figures, "docs": figures}


class Uncounting(Usage):
    """Counts nothing."""

    def search(self, tenant: str, *, counts: bool = True) -> Search:
        return super().search(tenant, counts=False)


async def steps_of(made: Replica, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the event loop is given to do by a search that is made, and by one that is given again."""
    loop, steps = asyncio.get_running_loop(), 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal steps
            steps += 1
            return real(*args, **options)

        return call

    taken = []
    await made.write("d1")
    with monkeypatch.context() as patched:
        for name in ("call_soon", "call_later", "call_at", "call_soon_threadsafe"):
            patched.setattr(loop, name, counting(getattr(loop, name)))
        for _ in range(2):
            steps = 0
            await made.found(timeout_s=5)
            taken.append(steps)
    return taken


async def test_a_search_that_is_counted_takes_no_more_steps_than_one_that_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Replica(CountingStore(), FakeRevisions(), usage=Uncounting(FakeUsageSink()))
    counting = Replica(CountingStore(), FakeRevisions())
    async with plain.running(), counting.running():
        without, with_usage = [await steps_of(each, monkeypatch) for each in (plain, counting)]
    assert with_usage == without
    assert without[0] > without[1] > 0
    assert not counting.sink.sent, "nothing is handed on by a search"
    assert (await counted(plain), (await counted(counting))[""]["queries"]) == ({}, 2)
