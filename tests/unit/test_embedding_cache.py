"""Embeddings near and far."""

import asyncio
from collections.abc import Mapping, Sequence

from services.embedding.cache import NearCache, TieredCache, cache_key, tenant_part
from tests.embedding_fakes import MemoryCache, spec_of


def test_a_key_depends_on_tenant_model_revision_use_and_text() -> None:
    keys = {
        cache_key("acme", spec_of(), "query", "a"),
        cache_key("acme", spec_of(), "document", "a"),
        cache_key("acme", spec_of(), "query", "b"),
        cache_key("acme", spec_of(id="other"), "query", "a"),
        cache_key("acme", spec_of(revision="2"), "query", "a"),
    }
    assert len(keys) == 5
    assert cache_key("globex", spec_of(), "query", "a") not in keys
    assert cache_key("acme", spec_of(), "query", "a") in keys


def test_the_least_recently_used_is_forgotten_first() -> None:
    near = NearCache(3 * 300)
    for key in (b"a", b"b", b"c"):
        near.put(key, bytes(40))
    assert near.get(b"a")
    near.put(b"d", bytes(40))
    assert near.get(b"b") is None
    assert near.get(b"a") and near.get(b"c") and near.get(b"d")


def test_replacing_an_entry_does_not_count_it_twice() -> None:
    near = NearCache(2 * 300)
    for _ in range(10):
        near.put(b"a", bytes(40))
    near.put(b"b", bytes(40))
    assert near.get(b"a") and near.get(b"b")


def test_an_entry_larger_than_the_cache_is_not_kept() -> None:
    near = NearCache(100)
    near.put(b"a", bytes(1000))
    assert near.get(b"a") is None


async def test_what_was_found_far_is_near_from_then_on() -> None:
    far = MemoryCache({b"a": b"1"})
    async with TieredCache(far, near_bytes=10_000) as cache:
        assert cache.near([b"a"]) == {}
        assert await cache.far([b"a", b"b"], length=1) == {b"a": b"1"}
        assert cache.near([b"a", b"b"]) == {b"a": b"1"}


async def test_a_slow_store_keeps_nobody_waiting_and_gets_all_in_one_go() -> None:
    class SlowCache(MemoryCache):
        def __init__(self) -> None:
            super().__init__()
            self.opened, self.asked = asyncio.Event(), asyncio.Event()
            self.sizes: list[int] = []

        async def put(self, entries: Mapping[bytes, bytes]) -> None:
            self.sizes.append(len(entries))
            self.asked.set()
            await self.opened.wait()
            await super().put(entries)

    far = SlowCache()
    async with TieredCache(far, near_bytes=10_000) as cache:
        cache.put(b"a", b"1")
        await far.asked.wait()
        for key in (b"b", b"c"):
            cache.put(key, b"2")
        assert cache.near([b"a", b"b"]) == {b"a": b"1", b"b": b"2"}
        far.opened.set()
    assert far.sizes == [1, 2]
    assert far.entries == {b"a": b"1", b"b": b"2", b"c": b"2"}


async def test_nothing_is_asked_of_the_store_where_all_is_near() -> None:
    class StrictCache(MemoryCache):
        async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
            assert keys
            return await super().get(keys)

    async with TieredCache(StrictCache(), near_bytes=10_000) as cache:
        assert await cache.far([], length=1) == {}


async def test_what_is_erased_is_gone_near_far_and_on_its_way_there() -> None:
    ours, theirs = tenant_part("acme"), tenant_part("globex")
    far = MemoryCache({ours + b"old": b"1", theirs + b"old": b"1"})
    async with TieredCache(far, near_bytes=10_000) as cache:
        await cache.far([ours + b"old", theirs + b"old"], length=1)
        cache.put(ours + b"new", b"2")
        cache.put(theirs + b"new", b"2")
        assert await cache.erase("acme") == (3, True)
        assert cache.near([ours + b"old", ours + b"new"]) == {}
        assert len(cache.near([theirs + b"old", theirs + b"new"])) == 2
        assert await cache.erase("acme") == (0, True)
    assert far.entries == {theirs + b"old": b"1", theirs + b"new": b"2"}
