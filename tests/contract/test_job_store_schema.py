"""What jobs keep in Redis is brought to the present version by whoever comes first, and never back."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.adapters.redis_schema import STEPS
from services.jobs.job import ItemChange, JobState
from services.mesh.errors import DependencyUnavailable
from services.mesh.schemas import UnknownSchema
from tests.contract.test_job_store import drained, eventually, job, jobs, specs
from tests.contract.test_job_store_again import letters as dead_letters
from tests.jobs_store import Store, store_in

NOW = max(STEPS)
# Not to be taken twice: the number tells.
NEXT = {**STEPS, NOW + 1: "for _, list in ipairs(call('KEYS', P .. '*:list')) do call('INCR', list .. 'ed') end"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def prefix() -> str:
    return f"{secrets.token_hex(4)}:"


async def version(redis: Redis, prefix: str) -> int:
    return int(await redis.client.get(f"{prefix}schema") or 0)


async def test_data_without_a_mark_is_of_the_first_version(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix) as redis:
        job_id = await RedisJobStore(redis, retention_s=60).submit(job(), specs(2))
        await redis.client.delete(f"{prefix}schema")
    async with Redis.open(server.url, prefix) as redis:
        assert await version(redis, prefix) == NOW
        assert (await RedisJobStore(redis, retention_s=60).get("acme", job_id)).progress.total == 2


async def test_items_that_failed_before_there_were_dead_letters_are_some(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix) as redis:
        store = RedisJobStore(redis, retention_s=60)
        job_id = await store.submit(job(), specs(2))
        await drained(RedisQueue(redis, "one", lease_s=5), ItemChange.FAIL)
        await redis.client.delete(f"{prefix}acme:failed:{job_id}", f"{prefix}acme:dead")
        await redis.client.hdel(f"{prefix}acme:job:{job_id}", "collection", "type", "asked", "retried", "resuming")
        await redis.client.set(f"{prefix}schema", 1)
    async with Redis.open(server.url, prefix) as redis:
        store = RedisJobStore(redis, retention_s=60)
        letters = await store.list_dead_letters("acme", dead_letters())
        assert {letter.id for letter in letters.items} == {f"{job_id}-1", f"{job_id}-2"}
        assert 0 < await redis.client.pttl(f"{prefix}acme:failed:{job_id}") <= 60_000
        listed = await store.list_jobs("acme", jobs(filter='collection = "collections/books" AND type = IMPORT'))
        assert [each.id for each in listed.items] == [job_id]
        await store.retry("acme", job_id)
        assert await drained(RedisQueue(redis, "one", lease_s=5)) == 2
        assert (await store.get("acme", job_id)).state is JobState.SUCCEEDED


async def test_jobs_that_ended_before_their_tenants_were_noted_are_forgotten_in_time(
    server: Store, prefix: str
) -> None:
    async with Redis.open(server.url, prefix) as redis:
        store = RedisJobStore(redis, retention_s=0.05)
        await store.submit(job(), specs(2))
        await drained(RedisQueue(redis, "one", lease_s=5))
        await redis.client.delete(f"{prefix}purging")
        await redis.client.set(f"{prefix}schema", 2)
    async with Redis.open(server.url, prefix) as redis:
        store = RedisJobStore(redis, retention_s=60)
        await eventually(lambda: store.forget_ended(10))
        assert not await redis.client.exists(f"{prefix}acme:list", f"{prefix}acme:purge", f"{prefix}purging")


async def test_older_data_is_brought_forward_once_by_many_at_once(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix) as redis:
        job_id = await RedisJobStore(redis, retention_s=60).submit(job(), specs(2))

    async def start() -> None:
        async with Redis.open(server.url, prefix, steps=NEXT) as redis:
            assert (await RedisJobStore(redis, retention_s=60).get("acme", job_id)).state is JobState.QUEUED

    await asyncio.gather(*(start() for _ in range(8)))
    async with Redis.open(server.url, prefix, steps=NEXT) as redis:
        assert await version(redis, prefix) == NOW + 1
        assert await redis.client.get(f"{prefix}acme:listed") == b"1"
        assert await drained(RedisQueue(redis, "one", lease_s=5)) == 2


async def test_newer_data_is_refused_in_one_sentence_and_left_alone(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix, steps=NEXT) as redis:
        job_id = await RedisJobStore(redis, retention_s=60).submit(job(), specs(2))
    with pytest.raises(UnknownSchema) as refused:
        async with Redis.open(server.url, prefix):
            pass
    assert str(refused.value) == (
        f"what jobs keep in Redis is at schema {NOW + 1}, this version of Ragweave knows up to {NOW}: "
        "start the version that wrote it, or a newer one"
    )
    async with Redis.open(server.url, prefix, steps=NEXT) as redis:
        assert (await RedisJobStore(redis, retention_s=60).get("acme", job_id)).state is JobState.QUEUED


async def test_a_process_that_is_overtaken_touches_nothing_more(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix) as old, Redis.open(server.url, prefix) as new:
        job_id = await RedisJobStore(old, retention_s=60).submit(job(), specs(2))
        async with Redis.open(server.url, prefix, steps=NEXT):
            pass
        for attempt in (old.ping(), RedisJobStore(old, retention_s=60).cancel("acme", job_id), new.run("lease")):
            with pytest.raises(DependencyUnavailable, match=f"schema {NOW + 1}.* up to {NOW}: start "):
                await attempt


async def test_a_step_that_fails_leaves_the_version_and_the_command_undone(server: Store, prefix: str) -> None:
    async with Redis.open(server.url, prefix) as redis:
        job_id = await RedisJobStore(redis, retention_s=60).submit(job(), specs(2))
    broken = {**STEPS, NOW + 1: "error({err = 'BROKEN'})"}
    with pytest.raises(Exception, match="BROKEN"):
        async with Redis.open(server.url, prefix, steps=broken):
            pass
    async with Redis.open(server.url, prefix) as redis:
        assert await version(redis, prefix) == NOW
        assert (await RedisJobStore(redis, retention_s=60).get("acme", job_id)).state is JobState.QUEUED
