"""What any embedding cache must do, and that a broken store is only ever a miss."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis.asyncio as redis
from structlog.testing import capture_logs

from services.embedding.adapters.redis import RedisCache
from services.embedding.ports import EmbeddingCache
from services.mesh.breakers import Breakers, Limits
from services.mesh.errors import DependencyUnavailable
from tests.embedding_fakes import MemoryCache
from tests.jobs_store import Store, store_in


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with store_in(tmp_path) as store:
        yield store.url


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[EmbeddingCache]:
    if request.param == "memory":
        yield MemoryCache()
    else:
        async with RedisCache.open(request.getfixturevalue("store"), ttl_s=60, timeout_s=2) as cache:
            yield cache


async def test_what_was_put_is_found_under_its_key(cache: EmbeddingCache) -> None:
    entries = {bytes([number]) * 32: bytes(range(256)) * number for number in range(1, 200)}
    await cache.put(entries)
    assert await cache.get(list(entries)) == list(entries.values())


async def test_a_key_never_put_is_none_in_its_place(cache: EmbeddingCache) -> None:
    await cache.put({b"known": b"1"})
    assert await cache.get([b"unknown", b"known", b"other"]) == [None, b"1", None]


async def test_the_last_value_put_counts(cache: EmbeddingCache) -> None:
    await cache.put({b"key": b"1"})
    await cache.put({b"key": b"2"})
    assert await cache.get([b"key"]) == [b"2"]


async def test_many_calls_at_a_time_are_answered(cache: EmbeddingCache) -> None:
    keys = [b"%d" % number for number in range(200)]
    await asyncio.gather(*(cache.put({key: key}) for key in keys))
    found = await asyncio.gather(*(cache.get([key]) for key in keys))
    assert [value for (value,) in found] == keys


async def test_all_that_begins_so_is_erased_and_nothing_else(cache: EmbeddingCache) -> None:
    ours = {b"tenant-1" + b"%d" % number: b"1" for number in range(5000)}
    await cache.put({**ours, b"tenant-2the": b"2"})
    assert await cache.erase(b"tenant-1") == (5000, True)
    assert await cache.erase(b"tenant-1") == (0, True)
    assert await cache.get([b"tenant-11", b"tenant-2the"]) == [None, b"2"]


async def test_an_erasure_that_a_broken_store_cannot_do_says_so(tmp_path: Path) -> None:
    async with RedisCache.open(f"unix://{tmp_path}/redis.sock", ttl_s=60, timeout_s=2) as cache:
        with pytest.raises(DependencyUnavailable):
            await cache.erase(b"tenant-1")


async def test_entries_of_the_store_end_by_themselves(store: str) -> None:
    async with RedisCache.open(store, ttl_s=60, timeout_s=2) as cache, redis.from_url(store) as client:
        await cache.put({b"key": b"1"})
        (name,) = await client.keys("ragweave:embedding:*")
        assert 0 < await client.ttl(name) <= 60


async def test_a_store_that_is_down_is_a_miss_told_of_once_until_it_answers(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with capture_logs() as logs, Breakers(Limits(failures=3, look_s=0.01)).wiring():
        async with RedisCache.open(store.url, ttl_s=60, timeout_s=2) as cache:
            for _ in range(10):
                await cache.put({b"key": b"1"})
                assert await cache.get([b"key"]) == [None]
            with store_in(tmp_path):
                async with asyncio.timeout(30):
                    while await cache.get([b"key"]) != [b"1"]:
                        await cache.put({b"key": b"1"})
                        await asyncio.sleep(0.01)
    told = [log["event"] for log in logs]
    assert (told[0], told.count("breaker closed")) == ("breaker open", 1)
    assert {log["dependency"] for log in logs} == {"embedding cache"}


async def test_a_store_that_hangs_is_a_miss_and_then_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with socket.socket(socket.AF_UNIX) as hanging, Breakers(Limits(failures=2, look_s=0)).wiring():
        hanging.bind(str(path))
        hanging.listen()
        async with RedisCache.open(f"unix://{path}", ttl_s=60, timeout_s=0.05) as cache:
            for _ in range(2):
                assert await cache.get([b"a", b"b"]) == [None, None]
            async with asyncio.timeout(0):  # would end the block at its first wait
                assert await cache.get([b"a"]) == [None]
                await cache.put({b"a": b"1"})


async def test_an_answer_that_came_too_late_is_never_taken_for_another(store: str) -> None:
    async with RedisCache.open(store, ttl_s=60, timeout_s=0.2) as cache, redis.from_url(store) as client:
        await cache.put({b"a": b"1", b"b": b"2"})
        await client.client_pause(500)
        assert await cache.get([b"a"]) == [None]
        await client.client_unpause()
        assert await cache.get([b"b"]) == [b"2"]
