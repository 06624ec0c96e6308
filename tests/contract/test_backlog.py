"""The port BacklogStore over Redis, and what metrics tell of it."""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import CollectorRegistry

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_backlog import RedisBacklog
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.backlog import BacklogFigures
from services.jobs.job import Assignment, DocumentSpec, Failure, ItemChange, JobType, Outcome, new_job_id
from services.jobs.ports_backlog import Backlog
from services.mesh.errors import DependencyUnavailable
from tests.jobs_store import Store, store_in

LEASE_S = 0.05
CORRUPT = Failure(3, "UNREADABLE_DOCUMENT", "b.pdf: it is corrupt")
DOWN = Failure(14, "DEPENDENCY_UNAVAILABLE", "embedding is unavailable", transient=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def redis(server: Store) -> AsyncIterator[Redis]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield redis


def job(tenant: str) -> Assignment:
    return Assignment(tenant, new_job_id(), "ann", JobType.IMPORT, "books", "uid-1")


async def submitted(redis: Redis, items: int, tenant: str = "acme") -> None:
    specs = [DocumentSpec(f"d{number}", source_uri=f"file:///d{number}.txt") for number in range(items)]
    await RedisJobStore(redis, retention_s=3600).submit(job(tenant), specs)


async def test_an_idle_store_has_nothing_left_to_do(redis: Redis) -> None:
    assert await RedisBacklog(redis, lease_s=60).backlog(10) == Backlog()


async def test_what_waits_is_told_apart_from_what_is_leased_delayed_and_dead(redis: Redis) -> None:
    await submitted(redis, 3)
    await submitted(redis, 2, tenant="globex")
    registry = CollectorRegistry()
    queue, store = RedisQueue(redis, "one", lease_s=60, registry=registry), RedisBacklog(redis, lease_s=60)
    assert (await store.backlog(10)).waiting == 5

    first, second, third = [(await queue.lease(1))[0] for _ in range(3)]
    await queue.finish(first, Outcome(ItemChange.FAIL, error=CORRUPT))
    await queue.put_back(second, 60.0, DOWN)
    left = await store.backlog(10)
    assert (left.waiting, left.leased, left.delayed, left.dead_letters, left.late) == (2, 1, 1, 1, 0)
    assert left.oldest_s < 60

    await queue.finish(third, Outcome(ItemChange.SUCCEED, chunks=4, size_bytes=9, timings_ms={"chunk": 2.0}))
    for outcome, count in (("failed", 1), ("retried", 1), ("succeeded", 1)):
        assert registry.get_sample_value("ragweave_items_total", {"outcome": outcome}) == count
    assert registry.get_sample_value("ragweave_item_chunks_total") == 4
    assert registry.get_sample_value("ragweave_item_stage_seconds_sum", {"stage": "chunk"}) == 0.002


async def test_a_lease_nobody_takes_over_is_late_by_its_holders_silence(redis: Redis) -> None:
    await submitted(redis, 1)
    queue, store = RedisQueue(redis, "one", lease_s=LEASE_S), RedisBacklog(redis, lease_s=LEASE_S)
    await queue.lease(1)
    while not (left := await store.backlog(10)).late:
        await asyncio.sleep(LEASE_S / 5)
    assert left.late == left.leased == 1
    assert LEASE_S <= left.silence_s <= left.oldest_s

    await queue.adopt([])  # a restarted worker has what it lost taken over at once, with an age nobody had
    adopted = await store.backlog(10)
    assert adopted.silence_s <= adopted.oldest_s


async def test_no_more_is_looked_at_than_allowed(redis: Redis) -> None:
    for tenant in ("acme", "globex", "initech"):
        await submitted(redis, 1, tenant=tenant)
    assert (await RedisBacklog(redis, lease_s=60).backlog(2)).waiting == 2


class Broken:
    async def backlog(self, most: int) -> Backlog:
        raise DependencyUnavailable("the job store does not answer")


async def test_while_the_store_is_away_nothing_old_is_told(redis: Redis) -> None:
    await submitted(redis, 2)
    registry = CollectorRegistry()
    await BacklogFigures(RedisBacklog(redis, lease_s=60), look_s=60, registry=registry).look()
    waiting = {"state": "waiting"}
    assert registry.get_sample_value("ragweave_queue_items", waiting) == 2
    with pytest.raises(DependencyUnavailable):
        await BacklogFigures(Broken(), look_s=60, registry=registry).look()
    assert math.isnan(registry.get_sample_value("ragweave_queue_items", waiting) or 0)
