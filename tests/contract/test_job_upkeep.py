"""Ended jobs go by themselves when their time has come, whether anybody asks about their tenant again or not."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from services.jobs import upkeep as module
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.blobs import PARTS
from services.jobs.job import ItemChange
from services.jobs.ports import KnownDocument
from services.jobs.upkeep import Upkeep
from services.mesh.errors import DependencyUnavailable
from tests.contract.test_job_store import drained, eventually, job, jobs, specs
from tests.fake_content import MemoryBlobStore
from tests.jobs_fakes import MemoryRegistry
from tests.jobs_store import Store, store_in
from tests.sweeping import sweep

# Of the store as a whole, whatever was done in it; the events of what was done age by themselves.
STANDING = {b"bell", b"schema", b"turn", b"logs", b"news", b"rung"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(4)}:"


@pytest.fixture
async def redis(server: Store, prefix: str) -> AsyncIterator[Redis]:
    async with Redis.open(server.url, prefix) as redis:
        yield redis


async def left(redis: Redis, prefix: str) -> set[bytes]:
    kept = {key[len(prefix) :] for key in await redis.client.keys(f"{prefix}*")} - STANDING
    return {key for key in kept if not key.endswith(b":log")}


async def test_of_ended_jobs_nothing_is_left_in_the_store_for_tenants_nobody_asks_about(
    redis: Redis, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_JOBS_AT_ONCE", 7)
    store, queue = RedisJobStore(redis, retention_s=0.05), RedisQueue(redis, "one", lease_s=5)
    for number in range(60):
        await store.submit(job(f"tenant-{number % 4}"), specs(2))
        await drained(queue, ItemChange.FAIL if number % 3 else ItemChange.SUCCEED)
    upkeep = Upkeep(store, MemoryBlobStore(), MemoryRegistry(), rest_s=3600)

    async def nothing() -> bool:
        await sweep(upkeep)
        return not await left(redis, prefix)

    await eventually(nothing)


async def test_jobs_that_may_still_be_asked_about_stay(redis: Redis, prefix: str) -> None:
    kept, passing = RedisJobStore(redis, retention_s=3600), RedisJobStore(redis, retention_s=0.01)
    queue = RedisQueue(redis, "one", lease_s=5)
    stays = await kept.submit(job(), specs(2))
    await drained(queue)
    waits = await kept.submit(job(), specs(2))
    await passing.submit(job(), specs(2))
    for lease in await queue.lease(2):  # of the one that waits: those of a tenant come in order
        await queue.put_back(lease, 3600)
    await drained(queue)

    async def gone() -> int:
        return await kept.forget_ended(100)

    assert await eventually(gone) == 1
    assert {each.id for each in (await kept.list_jobs("acme", jobs())).items} == {stays, waits}
    await sweep(Upkeep(kept, MemoryBlobStore(), MemoryRegistry(), rest_s=3600))
    assert await redis.client.zcard(f"{prefix}purging") == 1, "the one that stays goes in its own time"


async def test_many_may_forget_at_once_and_each_job_goes_once(redis: Redis, prefix: str) -> None:
    store, queue = RedisJobStore(redis, retention_s=0.01), RedisQueue(redis, "one", lease_s=5)
    for number in range(40):
        await store.submit(job(f"tenant-{number % 3}"), specs(1))
    assert await drained(queue) == 40

    async def all_due() -> bool:
        return not await redis.client.exists(*await redis.client.keys(f"{prefix}*:about:*"), "none")

    await eventually(all_due)
    counts = await asyncio.gather(*(store.forget_ended(5) for _ in range(12)))
    assert (sum(counts), max(counts)) == (40, 5)
    assert not await left(redis, prefix)


async def test_a_job_that_runs_again_is_not_forgotten_at_the_time_of_its_earlier_end(redis: Redis) -> None:
    store, queue = RedisJobStore(redis, retention_s=0.5), RedisQueue(redis, "one", lease_s=60)
    job_id = await store.submit(job(), specs(1))
    await drained(queue, ItemChange.FAIL)
    ended = await store.get("acme", job_id)
    await store.retry("acme", job_id)
    assert ended.purge_time is not None

    async def past() -> bool:
        return (await store.get("acme", job_id)).read_time > ended.purge_time  # type: ignore[operator]

    await eventually(past)
    await sweep(Upkeep(store, MemoryBlobStore(), MemoryRegistry(), rest_s=3600))
    assert (await store.list_jobs("acme", jobs())).total_size == 1


async def test_content_goes_when_no_document_has_it_and_no_job_may_read_it(redis: Redis) -> None:
    store, queue = RedisJobStore(redis, retention_s=0.01), RedisQueue(redis, "one", lease_s=5)
    blobs, registry = MemoryBlobStore(), MemoryRegistry()
    upkeep = Upkeep(store, blobs, registry, rest_s=0.05)

    async def put(text: bytes) -> str:
        async def whole() -> AsyncIterator[bytes]:
            yield text

        return (await blobs.put("acme", whole())).content_hash

    async def left_of(*hashes: str) -> list[bool]:
        """Of which of them there is something after sweeps over every part; what is asked about is not kept by it."""
        for _ in range(PARTS):
            await sweep(upkeep)
        return [("acme", each) in blobs.contents for each in hashes]

    had, unneeded = await put(b"had"), await put(b"unneeded")
    registry.documents["books", "a"] = KnownDocument(True, had, "", "", 1, "", "", 1, 1)

    async def gone() -> bool:
        return await left_of(had, unneeded) == [True, False]

    await eventually(gone)
    job_id = await store.submit(job(), specs(1))
    read = await put(b"read by the job")

    async def rested() -> bool:
        held = await store.get("acme", job_id)
        return (held.read_time - held.create_time).total_seconds() > 0.2

    await eventually(rested)
    assert await left_of(had, read) == [True, True]
    await drained(queue)

    async def with_the_job() -> bool:
        return await left_of(had, read) == [True, False]

    await eventually(with_the_job)
    registry.documents.clear()
    assert await left_of(had) == [False]


async def test_a_registry_that_cannot_be_asked_loses_nothing(redis: Redis) -> None:
    class Gone(MemoryRegistry):
        async def needed(self, content_hashes: Sequence[str]) -> set[str]:
            raise DependencyUnavailable("the collections service does not answer")

    async def whole() -> AsyncIterator[bytes]:
        yield b"needed, for all that is known"

    blobs = MemoryBlobStore()
    kept = await blobs.put("acme", whole())
    upkeep = Upkeep(RedisJobStore(redis, retention_s=3600), blobs, Gone(), rest_s=0)
    for _ in range(PARTS):
        await sweep(upkeep)
    assert await blobs.read("acme", kept.content_hash) == b"needed, for all that is known"
