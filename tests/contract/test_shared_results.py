"""Answers that replicas share in a real Redis, and how little its failures matter."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.mesh.errors import DependencyUnavailable
from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.adapters.redis_results import RedisResults
from services.retrieval.chunks import IndexId, Mode
from services.retrieval.results import Asked, Entry
from tests.jobs_store import Store, store_in
from tests.retrieval_fakes import FakeRevisions
from tests.retrieval_replica import CountingStore, Replica

DOCS, OTHERS = IndexId("uid-docs"), IndexId("uid-others")


def entry(number: int, *indexes: IndexId, tenant: str = "acme") -> Entry:
    asked = Asked(bytes([number]) * 32, tenant, indexes or (DOCS,), ("docs",), "", Mode.HYBRID)
    return Entry(asked, (7,) * len(asked.indexes), b"a\nbody\0", 123.5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Store]:
    with store_in(tmp_path) as running:
        yield running


@pytest.fixture
async def results(server: Store) -> AsyncIterator[RedisResults]:
    async with RedisResults.open(server.url, ttl_s=60, timeout_s=5) as made:
        yield made


async def test_what_is_put_is_got_by_whoever_asks_the_same(results: RedisResults) -> None:
    kept = entry(1, DOCS, OTHERS)
    results.put(kept)
    await results.settled()
    assert await results.get(kept.asked) == kept
    assert await results.get(entry(2).asked) is None
    (name,) = await results._redis.keys()
    assert 0 < await results._redis.pttl(name) <= 60_000


async def test_answers_of_an_index_that_was_restored_since_are_not_got(server: Store) -> None:
    kept = entry(1)
    async with RedisResults.open(server.url, ttl_s=60, timeout_s=5) as before:
        before.put(kept)
    async with RedisResults.open(server.url, ttl_s=60, timeout_s=5, era="restored") as after:
        assert await after.get(kept.asked) is None
        after.put(kept)
        await after.settled()
        assert await after.get(kept.asked) == kept
        assert await after.drop("acme", None) == 2


@pytest.mark.parametrize("damage", [b"", b"x", b"\n\n\n", b"cut"])
async def test_a_value_that_is_not_whole_is_none(results: RedisResults, damage: bytes) -> None:
    kept = entry(1)
    results.put(kept)
    await results.settled()
    (name,) = await results._redis.keys()
    whole = await results._redis.get(name)
    await results._redis.set(name, whole[:-1] if damage == b"cut" else damage)
    assert await results.get(kept.asked) is None


async def test_a_purge_drops_the_answers_of_the_indexes_and_no_others(results: RedisResults) -> None:
    both, others, theirs = entry(1, DOCS, OTHERS), entry(2, OTHERS), entry(3, DOCS, tenant="globex")
    for each in (both, others, theirs, entry(4)):
        results.put(each)
    await results._redis.set("ragweave:index:uid-docs:revision", 3)
    assert await results.drop("acme", DOCS) == 2
    assert await results.get(both.asked) is None
    assert await results.get(others.asked) == others and await results.get(theirs.asked) == theirs
    assert await results._redis.get("ragweave:index:uid-docs:revision") == b"3"


async def test_all_of_a_tenant_is_dropped_what_another_release_has_written_too(
    results: RedisResults, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = entry(3, tenant="globex")
    for each in (entry(1), entry(2, OTHERS), theirs):
        results.put(each)
    await results.settled()
    monkeypatch.setattr("services.retrieval.adapters.redis_results._RELEASE", "0.0.0")
    results.put(entry(1))
    assert await results.drop("acme", None) == 3
    assert len(await results._redis.keys()) == 1


async def test_a_store_that_is_away_is_a_miss_and_a_purge_says_so(server: Store) -> None:
    async with RedisResults.open(server.url, ttl_s=60, timeout_s=5) as made:
        server.kill()
        assert await made.get(entry(1).asked) is None
        assert made.down == "the shared result cache does not answer"
        made.put(entry(1))
        await made.settled()
        with pytest.raises(DependencyUnavailable):
            await made.drop("acme", DOCS)


async def test_a_purge_empties_every_replica_and_the_store_they_share(server: Store) -> None:
    store = CountingStore()
    async with AsyncExitStack() as opened:
        replicas, opened_results = [], []
        for _ in range(2):
            counter = await opened.enter_async_context(RedisRevisions.open(server.url, timeout_s=5))
            shared = await opened.enter_async_context(RedisResults.open(server.url, ttl_s=60, timeout_s=5))
            opened_results.append(shared)
            replicas.append(await opened.enter_async_context(Replica(store, counter, shared=shared).running()))
        await replicas[0].write("d1")
        for each in replicas:
            while not list(each.cache._near.entries()):
                await each.found()
        for one in opened_results:
            await one.settled()  # what is still on its way would arrive after the purge
        assert (await replicas[0].keeper.purge("acme"))[:2] == (1, 1)
        while list(replicas[1].cache._near.entries()):
            await asyncio.sleep(0.01)
        assert [name async for name in shared._redis.scan_iter("ragweave:results:*")] == []


async def test_one_replica_gives_what_another_found_until_something_is_written(server: Store) -> None:
    counter, store = FakeRevisions(), CountingStore()
    async with AsyncExitStack() as opened:
        one, other = [
            await opened.enter_async_context(
                Replica(
                    store,
                    counter,
                    shared=await opened.enter_async_context(RedisResults.open(server.url, ttl_s=60, timeout_s=5)),
                ).running()
            )
            for _ in range(2)
        ]
        await one.write("d1")
        first = await one.found()
        assert isinstance(one.cache._shared, RedisResults)
        await one.cache._shared.settled()
        again = await other.found()
        assert (again.cache.status, again.cache.layer) == (again.cache.HIT, again.cache.SHARED)
        assert again.hits == first.hits and store.searches == 1
        assert (await other.found()).cache.layer == again.cache.PROCESS
        await one.write("d1", "foxes sleep")
        assert (await one.texts(), await other.texts()) == (["foxes sleep"], ["foxes sleep"])
        server.kill()
        degraded = await one.found(text="dogs")
        assert [each.stage for each in degraded.degraded_stages] == ["cache"] and degraded.hits
