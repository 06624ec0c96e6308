"""What jobs write into the event log of their tenant, in Redis, in the step that makes it so."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from services.jobs.adapters.redis import Kept, Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.events import Span, TenantEvent
from services.jobs.job import DocumentSpec, ItemChange, ItemState, JobState
from services.mesh.errors import EventsForgotten
from tests.contract.test_job_store import CORRUPT, done, drained, eventually, folder, job, only, specs
from tests.jobs_events import change
from tests.jobs_store import Store, store_in

LEASE_S = 5.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def redis(server: Store) -> AsyncIterator[Redis]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield redis


@pytest.fixture
def store(redis: Redis) -> RedisJobStore:
    return RedisJobStore(redis, retention_s=3600)


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, "one", lease_s=LEASE_S)


@pytest.fixture
def log(redis: Redis) -> RedisEventLog:
    return RedisEventLog(redis)


async def events(log: RedisEventLog, *, progress: bool = False) -> list[TenantEvent]:
    """All there are; without those of progress, which depend on the time it takes."""
    found = await log.read("acme", 0, 1000)
    assert [event.sequence for event in found] == list(range(1, len(found) + 1))
    return [event for event in found if progress or event.topic != "ingestion.progress"]


async def topics(log: RedisEventLog) -> list[str]:
    return [event.topic for event in await events(log)]


async def test_a_job_tells_of_its_beginning_its_documents_and_its_end(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    job_id = await store.submit(job(), specs(3))
    assert await events(log) == []
    for end in (ItemChange.SUCCEED, ItemChange.SKIP, ItemChange.FAIL):
        failed = end is ItemChange.FAIL
        outcome = done(end, chunks=2, size_bytes=10, error=CORRUPT if failed else None, timings_ms={"embed": 1.0})
        await queue.finish(await only(queue), outcome)
    started, indexed, failed_one, completed = await events(log)
    assert [each.topic for each in (started, indexed, failed_one, completed)] == [
        "ingestion.started",
        "document.indexed",
        "document.failed",
        "ingestion.completed",
    ]
    assert started.job
    assert started.job.state is JobState.RUNNING
    assert started.job.start_time == started.time
    ended = await store.get("acme", job_id)
    assert completed.assignment
    assert completed.job == replace(ended, assignment=completed.assignment, read_time=completed.time)
    assert (completed.assignment.job_id, completed.assignment.collection_uid) == (job_id, "uid-1")
    assert {event.collection_id for event in await events(log)} == {"books"}
    assert indexed.item
    assert (indexed.item.state, indexed.item.spec, indexed.item.chunks) == (
        ItemState.SUCCEEDED,
        DocumentSpec("doc-1"),
        2,
    )
    assert failed_one.item
    assert (failed_one.item.number, failed_one.item.error) == (3, CORRUPT)
    assert indexed.assignment == completed.assignment


async def test_a_document_is_named_with_those_who_may_see_it(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    spec = DocumentSpec("a", source_uri="u", title="t", metadata={"k": 1}, principals=("ann",), content_hash="ab" * 32)
    await store.submit(job(), [spec])
    await drained(queue)
    [indexed] = [event for event in await events(log) if event.item]
    assert indexed.item
    assert indexed.item.spec == DocumentSpec("a", source_uri="u", principals=("ann",))


@pytest.mark.parametrize(
    ("end", "topic"), [(ItemChange.FAIL, "ingestion.failed"), (ItemChange.SKIP, "ingestion.completed")]
)
async def test_how_a_job_ends_is_its_last_topic(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog, end: ItemChange, topic: str
) -> None:
    await store.submit(job(), specs(2))
    await drained(queue, end)
    assert (await topics(log))[-1] == topic


async def test_a_job_that_runs_again_starts_and_ends_again(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    job_id = await store.submit(job(), specs(1))
    await drained(queue, ItemChange.FAIL)
    await store.retry("acme", job_id)
    await drained(queue)
    assert await topics(log) == [
        "ingestion.started",
        "document.failed",
        "ingestion.failed",
        "ingestion.started",
        "document.indexed",
        "ingestion.completed",
    ]
    assert [event.job.attempt for event in await events(log) if event.job] == [1, 1, 2, 2]


async def test_a_cancelled_job_tells_so_when_it_has_ended(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    await store.cancel("acme", await store.submit(job(), specs(1)))
    assert await topics(log) == ["ingestion.cancelled"]
    running = await store.submit(job(), specs(2))
    lease = await only(queue)
    await store.cancel("acme", running)
    assert (await topics(log))[1:] == ["ingestion.started"]
    await queue.finish(lease, done(ItemChange.CANCEL))
    assert (await topics(log))[1:] == ["ingestion.started", "ingestion.cancelled"]


async def test_an_empty_source_is_a_beginning_and_an_end(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    await store.submit(folder(), [])
    await queue.expand(await only(queue), 0, [], "", final=True)
    assert await topics(log) == ["ingestion.started", "ingestion.completed"]


async def test_progress_is_told_once_a_second_at_most_and_what_is_left_of_it_when_a_worker_gives_a_sign(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog
) -> None:
    await store.submit(job(), specs(101))
    for _ in range(10):
        for lease in await queue.lease(10):
            await queue.finish(lease, done(chunks=1))
    last = await only(queue)

    async def told() -> bool:
        assert await queue.heartbeat([last]) == ["OK"]
        seen = [event.job.progress.processed for event in await events(log, progress=True) if event.job]
        return seen[-1] == 100

    await eventually(told)
    before = await events(log, progress=True)
    await queue.heartbeat([last])
    assert await events(log, progress=True) == before, "there is nothing new to tell"
    progress = [event for event in before if event.topic == "ingestion.progress"]
    assert 1 <= len(progress) < 100
    times = [event.time for event in before if event.job]
    assert all((later - earlier).total_seconds() >= 1 for earlier, later in pairwise(times))


async def test_events_outlive_their_job(store: RedisJobStore, queue: RedisQueue, log: RedisEventLog) -> None:
    job_id = await store.submit(job(), specs(1))
    await drained(queue)
    told = await events(log)
    await store.delete("acme", job_id)
    assert await events(log) == told


async def test_nothing_is_written_for_a_tenant_that_was_erased_and_it_counts_from_1_when_it_is_back(
    store: RedisJobStore, queue: RedisQueue, log: RedisEventLog, redis: Redis
) -> None:
    await log.record([change(1), change(2, "other")])
    assert await store.erase("acme") == (1, True)
    await log.record([change(3)])
    assert await log.span("acme") == Span(1, 0)
    assert await anext(log.news()) == {"other"}
    await store.admit("acme")
    assert await log.read("acme", 0, 10) == []
    await log.record([change(3), change(4)])
    [event] = await log.read("acme", 0, 10)
    assert (event.sequence, event.changed_collection) == (1, change(4).collection)


async def test_a_log_is_forgotten_once_nothing_has_happened_for_long_and_its_sequence_is_not(server: Store) -> None:
    prefix = f"{secrets.token_hex(4)}:"
    async with Redis.open(server.url, prefix, events=Kept(seconds=0.05)) as redis:
        log = RedisEventLog(redis)
        await log.record([change(1), change(2)])

        async def gone() -> bool:
            return await log.span("acme") == Span(3, 2)

        await eventually(gone)
        assert await log.read("acme", 2, 10) == []
        with pytest.raises(EventsForgotten):
            await log.read("acme", 1, 10)
        left = {key.decode().removeprefix(prefix) for key in await redis.client.keys(f"{prefix}*")}
        assert left == {"schema", "logs", "news", "rung"}
        await log.record([change(3)])
        assert [event.sequence for event in await log.read("acme", 2, 10)] == [3]


async def test_events_that_are_too_old_go_while_newer_ones_stay(server: Store) -> None:
    prefix = f"{secrets.token_hex(4)}:"
    async with Redis.open(server.url, prefix) as redis:
        await RedisEventLog(redis).record([change(number) for number in range(1, 251)])
    # As long after that as it takes for those to be too old, by the settings of who writes next.
    async with Redis.open(server.url, prefix, events=Kept(seconds=3600)) as redis:
        log = RedisEventLog(redis)
        key = f"{prefix}acme:log"
        entries = await redis.client.xrange(key)
        await redis.client.delete(key)
        for at, (entry, fields) in enumerate(entries):
            old = int(fields[b"t"]) - (2 * 3600_000 if at < 137 else 0)
            await redis.client.xadd(key, {**fields, b"t": old}, id=entry)
        await log.record([change(251)])
        assert await log.span("acme") == Span(138, 251)
