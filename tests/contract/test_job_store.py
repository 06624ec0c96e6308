"""The ports JobStore and Queue, held by what fulfils them: Redis, real, with every write on disk."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.jobs.adapters.redis import Kept, Redis, moment
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.job import (
    Assignment,
    DirectoryImport,
    DocumentSpec,
    Event,
    Failure,
    ItemChange,
    ItemState,
    JobState,
    JobType,
    Lease,
    Outcome,
    Task,
    new_job_id,
)
from services.jobs.listing import items_query, jobs_query
from services.mesh.errors import (
    DependencyUnavailable,
    EtagMismatch,
    FailedPrecondition,
    InvalidFilter,
    JobNotFound,
    LeaseLost,
    RequestIdReused,
    TenantDeleted,
)
from services.mesh.receipts import Receipt
from tests.jobs_store import Store, store_in

LEASE_S = 1.0
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


@pytest.fixture
def store(redis: Redis) -> RedisJobStore:
    return RedisJobStore(redis, retention_s=3600)


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, "one", lease_s=LEASE_S)


@pytest.fixture
def other(redis: Redis) -> RedisQueue:
    return RedisQueue(redis, "two", lease_s=LEASE_S)


def job(tenant: str = "acme", **fields: Any) -> Assignment:
    return Assignment(tenant, new_job_id(), "ann", JobType.IMPORT, "books", "uid-1", **fields)


def receipt(request_id: str, method: str) -> Receipt:
    return Receipt("acme", method, request_id, "digest")


def specs(count: int = 3) -> list[DocumentSpec]:
    return [DocumentSpec(f"doc-{number}", content_hash="ab" * 32) for number in range(1, count + 1)]


def folder(**fields: Any) -> Assignment:
    return job(directory=DirectoryImport("team", "docs", metadata={"team": "x"}), source_key="directory:docs", **fields)


def done(change: ItemChange = ItemChange.SUCCEED, **fields: Any) -> Outcome:
    return Outcome(change, **fields)


def jobs(**fields: Any) -> Any:
    return jobs_query(**{"filter": "", "order_by": "", "page_size": 0, "page_token": "", "page": 0, **fields})


def items(of: str, **fields: Any) -> Any:
    return items_query(of, **{"filter": "", "order_by": "", "page_size": 0, "page_token": "", "page": 0, **fields})


async def eventually(ask: Callable[[], Awaitable[Any]]) -> Any:
    """What `ask` gives, once it gives something."""
    async with asyncio.timeout(20):
        while not (found := await ask()):
            await asyncio.sleep(0.01)
        return found


async def only(queue: RedisQueue) -> Lease:
    [lease] = await eventually(lambda: queue.lease(1))
    return lease  # type: ignore[no-any-return]


async def drained(queue: RedisQueue, change: ItemChange = ItemChange.SUCCEED) -> int:
    """Finishes all there is; how much that was."""
    count = 0
    while leases := await queue.lease(10):
        for lease in leases:
            await queue.finish(lease, done(change))
            count += 1
    return count


async def seen(store: RedisJobStore, job_id: str, after: int = 0) -> list[Event]:
    return [event async for event in store.events("acme", job_id, after)]


async def test_a_job_is_recorded_and_queued_with_its_items_in_one_step(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(3))
    found = await store.get("acme", job_id)
    assert (found.state, found.progress.total, found.progress.total_final) == (JobState.QUEUED, 3, True)
    leases = await queue.lease(10)
    assert [(lease.number, lease.spec) for lease in leases] == list(enumerate(specs(3), 1))


async def test_a_job_runs_from_its_first_lease_and_ends_with_its_last_item(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(2))
    first, second = await queue.lease(2)
    running = await store.get("acme", job_id)
    assert running.state is JobState.RUNNING
    assert running.start_time is not None
    await queue.finish(first, done(chunks=4, size_bytes=100, index_revision=7, timings_ms={"embed": 12.34}))
    assert (await store.get("acme", job_id)).percentage == 50
    await queue.finish(second, done(ItemChange.SKIP, size_bytes=20))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.percentage, ended.index_revision) == (JobState.SUCCEEDED, 100, 7)
    progress = ended.progress
    assert (progress.processed, progress.succeeded, progress.skipped, progress.chunks, progress.bytes) == (
        2,
        1,
        1,
        4,
        120,
    )
    assert ended.end_time is not None
    assert ended.purge_time is not None
    assert (ended.purge_time - ended.end_time).total_seconds() == 3600
    one, two = (await store.list_items("acme", job_id, items(job_id))).items
    assert (one.state, one.attempts, one.chunks, one.timings_ms) == (ItemState.SUCCEEDED, 1, 4, {"embed": 12.3})
    assert two.state is ItemState.SKIPPED


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ([ItemChange.SUCCEED, ItemChange.FAIL], JobState.PARTIALLY_SUCCEEDED),
        ([ItemChange.SKIP, ItemChange.FAIL], JobState.PARTIALLY_SUCCEEDED),
        ([ItemChange.FAIL, ItemChange.FAIL], JobState.FAILED),
        ([ItemChange.SKIP, ItemChange.SKIP], JobState.SUCCEEDED),
    ],
)
async def test_how_items_end_decides_how_the_job_ends(
    store: RedisJobStore, queue: RedisQueue, changes: list[ItemChange], state: JobState
) -> None:
    job_id = await store.submit(job(), specs(len(changes)))
    for change in changes:
        await queue.finish(await only(queue), done(change, error=CORRUPT if change is ItemChange.FAIL else None))
    ended = await store.get("acme", job_id)
    assert ended.state is state
    assert ended.error == (CORRUPT if ItemChange.FAIL in changes else None)


async def test_a_running_job_tells_its_rate_and_when_it_will_end(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(10))
    for lease in await queue.lease(4):
        await queue.finish(lease, done())
    running = await store.get("acme", job_id)
    assert running.progress.items_per_second > 0
    assert running.estimated_end_time is not None
    assert running.estimated_end_time > running.read_time
    await drained(queue)
    assert (await store.get("acme", job_id)).progress.items_per_second == 0


async def test_an_item_whose_worker_died_says_how_often(store: RedisJobStore, redis: Redis) -> None:
    queue = RedisQueue(redis, "one", lease_s=60)
    await store.submit(job(), specs(1))
    assert (await only(queue)).deaths == 0
    for deaths in (1, 2):
        await queue.adopt([])
        lease = await only(queue)
        assert (lease.deaths, lease.attempt) == (deaths, deaths + 1)
    await queue.put_back(lease, 0.01, DOWN)
    assert (await only(queue)).deaths == 0


async def test_an_item_is_leased_to_one_worker_only(store: RedisJobStore, queue: RedisQueue, other: RedisQueue) -> None:
    await store.submit(job(), specs(40))
    taken = await asyncio.gather(*(worker.lease(5) for worker in (queue, other) for _ in range(4)))
    numbers = [lease.number for leases in taken for lease in leases]
    assert sorted(numbers) == list(range(1, 41))


async def test_a_lease_that_runs_out_goes_to_another_and_the_late_worker_writes_nothing(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(1))
    late = await only(queue)
    assert await other.lease(1) == []
    taken = await only(other)
    assert (taken.number, taken.attempt) == (1, 2)
    assert taken.fence > late.fence
    assert await queue.heartbeat([late]) == ["LOST"]
    for write in (
        queue.commit(late, 4),
        queue.lock(late, "uid-1", "doc-1"),
        queue.finish(late, done(chunks=5)),
        queue.put_back(late),
    ):
        with pytest.raises(LeaseLost):
            await write
    await other.finish(taken, done(chunks=2))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.succeeded, ended.progress.chunks) == (JobState.SUCCEEDED, 1, 2)


async def test_a_heartbeat_keeps_a_lease_for_many_times_its_length(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    await store.submit(job(), specs(1))
    lease = await only(queue)
    loop = asyncio.get_running_loop()
    until = loop.time() + 5 * LEASE_S
    while loop.time() < until:
        assert await queue.heartbeat([lease]) == ["OK"]
        assert await other.lease(1) == []
        await asyncio.sleep(LEASE_S / 10)
    await queue.finish(lease, done())


async def test_a_worker_that_comes_back_takes_its_own_work_at_once(store: RedisJobStore, redis: Redis) -> None:
    before = RedisQueue(redis, "one", lease_s=3600)
    await store.submit(job(), specs(3))
    kept, *_ = await before.lease(3)
    after = RedisQueue(redis, "one", lease_s=3600)
    assert await after.lease(3) == []
    assert await after.adopt([kept]) == 2
    again = await after.lease(3)
    assert sorted(lease.number for lease in again) == [2, 3]
    assert {lease.attempt for lease in again} == {2}
    assert await RedisQueue(redis, "two", lease_s=3600).adopt([]) == 0


async def test_work_put_back_does_not_count_unless_it_failed(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(1))
    await queue.put_back(await only(queue))
    second = await only(queue)
    assert second.attempt == 1
    await queue.put_back(second, 0.05, DOWN)
    [item] = (await store.list_items("acme", job_id, items(job_id))).items
    assert (item.state, item.attempts) == (ItemState.QUEUED, 1)
    assert item.error is not None
    assert item.error.reason == DOWN.reason
    assert await queue.lease(1) == []
    third = await only(queue)
    assert third.attempt == 2
    await queue.finish(third, done())
    [item] = (await store.list_items("acme", job_id, items(job_id))).items
    assert (item.state, item.attempts, item.error) == (ItemState.SUCCEEDED, 2, None)


async def test_one_document_is_worked_on_by_one_item_at_a_time(store: RedisJobStore, queue: RedisQueue) -> None:
    for _ in range(2):
        await store.submit(job(), specs(1))
    first, second = await queue.lease(2)
    assert await queue.lock(first, "uid-1", "doc-1")
    assert await queue.lock(first, "uid-1", "doc-1")
    assert not await queue.lock(second, "uid-1", "doc-1")
    assert await queue.lock(second, "uid-2", "doc-1")
    await queue.put_back(second)
    await queue.finish(first, done())
    [again] = await queue.lease(1)
    assert await queue.lock(again, "uid-1", "doc-1")


async def test_whoever_works_on_a_document_later_has_a_higher_fence(
    store: RedisJobStore, queue: RedisQueue, redis: Redis
) -> None:
    for tenant in ("acme", "globex"):
        await store.submit(job(tenant), specs(1))
    fences = []
    for lease in await queue.lease(2):
        fences += [await queue.lock(lease, "uid-1", "doc-1") for _ in range(3)]
    await redis.client.flushdb()  # a store that lost its data
    await store.submit(job(), specs(1))
    fences.append(await queue.lock(await only(queue), "uid-1", "doc-1"))
    assert fences == sorted(set(fences))


async def test_a_lock_ends_with_the_lease_of_its_holder_and_lives_as_long(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    for _ in range(2):
        await store.submit(job(), specs(1))
    first, second = await queue.lease(2)
    await queue.lock(first, "uid-1", "doc-1")
    loop = asyncio.get_running_loop()
    until = loop.time() + 3 * LEASE_S
    while loop.time() < until:
        assert await queue.heartbeat([first, second]) == ["OK", "OK"]
        assert not await other.lock(second, "uid-1", "doc-1")
        await asyncio.sleep(LEASE_S / 10)
    taken = await eventually(lambda: other.lease(2))
    [again] = [lease for lease in taken if lease.job_id == second.job_id] or await other.lease(1)
    assert await eventually(lambda: other.lock(again, "uid-1", "doc-1"))


async def test_a_directory_is_expanded_page_by_page_and_a_page_twice_is_a_page_once(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(folder(), [])
    lease = await only(queue)
    assert (lease.task, lease.checkpoint, lease.total) == (Task.EXPAND, "", 0)
    page = [DocumentSpec(f"d{number}", path=f"{number}.md") for number in range(5)]
    for _ in range(2):
        assert await queue.expand(lease, 0, page, "4.md", final=False)
    middle = await store.get("acme", job_id)
    assert (middle.progress.total, middle.progress.total_final) == (5, False)
    assert await drained(queue) == 5
    assert (await store.get("acme", job_id)).state is JobState.RUNNING
    assert (await store.get("acme", job_id)).percentage == 99.9
    assert await queue.expand(lease, 5, [DocumentSpec("d5", path="sub/5.md")], "", final=True)
    [last] = await queue.lease(9)
    assert last.spec == DocumentSpec("d5", path="sub/5.md", source_uri="team:docs/sub/5.md", metadata={"team": "x"})
    await queue.finish(last, done())
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.total, ended.progress.succeeded) == (JobState.SUCCEEDED, 6, 6)


async def test_an_expansion_goes_on_where_a_killed_worker_left_it(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    await store.submit(folder(), [])
    killed = await only(queue)
    await queue.expand(killed, 0, [DocumentSpec("a", path="a.md")], "a.md", final=False)
    await drained(other)
    taken = await only(other)
    assert (taken.task, taken.checkpoint, taken.total) == (Task.EXPAND, "a.md", 1)
    with pytest.raises(LeaseLost):
        await queue.expand(killed, 1, [DocumentSpec("b", path="b.md")], "b.md", final=False)
    assert await other.expand(taken, 1, [], "", final=True)


async def test_a_source_that_cannot_be_listed_fails_the_job(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(folder(), [])
    await queue.finish(await only(queue), done(ItemChange.FAIL, error=CORRUPT))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.error) == (JobState.FAILED, CORRUPT)


async def test_an_empty_directory_is_a_job_well_done(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(folder(), [])
    await queue.expand(await only(queue), 0, [], "", final=True)
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.percentage) == (JobState.SUCCEEDED, 100)


async def test_a_full_import_is_swept_once_all_its_items_have_ended(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(folder(full=True), [])
    found = [DocumentSpec("a", path="a.md"), DocumentSpec("b", path="b.md")]
    await queue.expand(await only(queue), 0, found, "", final=True)
    await queue.finish(await only(queue), done())
    await queue.finish(await only(queue), done(ItemChange.FAIL, error=CORRUPT))
    sweep = await only(queue)
    assert sweep.task is Task.SWEEP
    assert (await store.get("acme", job_id)).state is JobState.RUNNING
    assert await queue.absent(sweep, ["a", "gone", "b", "old"]) == ["gone", "old"]
    await queue.finish(sweep, done(index_revision=9))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.total, ended.index_revision) == (JobState.PARTIALLY_SUCCEEDED, 2, 9)


async def test_a_queued_job_is_cancelled_at_once(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(2))
    assert (await store.cancel("acme", job_id)).state is JobState.CANCELLED
    assert (await store.cancel("acme", job_id)).state is JobState.CANCELLED
    assert await queue.lease(5) == []
    states = {item.state for item in (await store.list_items("acme", job_id, items(job_id))).items}
    assert states == {ItemState.CANCELLED}


async def test_a_running_job_is_cancelled_when_its_work_in_flight_has_stopped(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(5))
    first, second = await queue.lease(2)
    await queue.finish(first, done(chunks=3))
    assert (await store.cancel("acme", job_id)).state is JobState.CANCELLING
    assert await queue.heartbeat([second]) == ["CANCEL"]
    assert not await queue.commit(second, 4)
    await queue.finish(second, done(ItemChange.CANCEL))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.processed, ended.percentage) == (JobState.CANCELLED, 1, 20)
    assert await queue.lease(5) == []
    states = [item.state for item in (await store.list_items("acme", job_id, items(job_id))).items]
    assert states == [ItemState.SUCCEEDED] + [ItemState.CANCELLED] * 4


async def test_a_cancel_survives_the_death_of_the_worker(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(3))
    await queue.lease(2)
    await store.cancel("acme", job_id)

    async def ended() -> bool:
        assert await other.lease(3) == []
        return (await store.get("acme", job_id)).state is JobState.CANCELLED

    assert await eventually(ended)


async def test_an_item_that_may_have_written_is_seen_through_in_spite_of_a_cancel(
    store: RedisJobStore, queue: RedisQueue, other: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(2))
    lease = await only(queue)
    assert await queue.commit(lease, 4)
    await store.cancel("acme", job_id)
    assert await queue.commit(lease, 4)
    again = await only(other)
    assert (again.number, again.committing, again.chunks) == (1, True, 4)
    await other.put_back(again, 0.01, DOWN)
    assert (await store.get("acme", job_id)).state is JobState.CANCELLING
    await other.finish(await only(other), done(chunks=1))
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.succeeded) == (JobState.CANCELLED, 1)


async def test_an_ended_job_cannot_be_cancelled(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(1))
    await drained(queue)
    with pytest.raises(FailedPrecondition):
        await store.cancel("acme", job_id)
    with pytest.raises(FailedPrecondition):
        await store.cancel("acme", job_id, receipt=receipt("x", "CancelJob"))


async def test_a_hundred_equal_requests_at_a_time_make_one_job(store: RedisJobStore, queue: RedisQueue) -> None:
    key = receipt("once", "ImportDocuments")
    made = await asyncio.gather(*(store.submit(job(), specs(2), key) for _ in range(100)))
    assert len(set(made)) == 1
    assert (await store.list_jobs("acme", jobs())).total_size == 1
    assert await drained(queue) == 2
    assert await store.recall(key) == made[0]
    with pytest.raises(RequestIdReused):
        await store.submit(job(), specs(1), replace(key, digest="another"))
    with pytest.raises(RequestIdReused):
        await store.recall(replace(key, digest="another"))
    assert await store.submit(job("other"), specs(1), replace(key, tenant="other")) != made[0]


async def test_a_repeated_submission_without_a_request_id_is_one_job(store: RedisJobStore, queue: RedisQueue) -> None:
    once = job()
    assert await store.submit(once, specs(2)) == await store.submit(once, specs(2))
    assert await drained(queue) == 2


async def test_a_repeated_cancel_gives_the_same_answer(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(2))
    await only(queue)
    key = receipt("c", "CancelJob")
    await store.cancel("acme", job_id, receipt=key)
    assert (await store.cancel("acme", job_id, receipt=key)).state is JobState.CANCELLING
    with pytest.raises(RequestIdReused):
        await store.cancel("acme", job_id, receipt=replace(key, digest="another"))


async def test_a_stale_etag_cancels_nothing(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(2))
    queued = (await store.get("acme", job_id)).etag
    [lease] = await queue.lease(1)
    running = (await store.get("acme", job_id)).etag
    assert running != queued
    for stale in (queued, '"1-nonsense"', "x", '"²-RUNNING"'):
        with pytest.raises(EtagMismatch):
            await store.cancel("acme", job_id, etag=stale)
    assert (await store.get("acme", job_id)).state is JobState.RUNNING
    assert await queue.commit(lease, 1)
    await queue.finish(lease, done())
    assert (await store.get("acme", job_id)).etag == running, "progress is not a change of state"
    assert (await store.cancel("acme", job_id, etag=running.strip('"'))).state in (
        JobState.CANCELLING,
        JobState.CANCELLED,
    )


async def test_another_tenants_job_does_not_exist(store: RedisJobStore) -> None:
    job_id = await store.submit(job(), specs(1))
    for ask in (
        store.get("other", job_id),
        store.cancel("other", job_id),
        store.list_items("other", job_id, items(job_id)),
        anext(store.events("other", job_id, 0)),
    ):
        with pytest.raises(JobNotFound):
            await ask
    assert (await store.list_jobs("other", jobs())).total_size == 0


async def test_a_tenants_name_cannot_reach_into_another_tenant(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job("a:job"), specs(1))
    assert (await store.get("a:job", job_id)).assignment.tenant == "a:job"
    [lease] = await queue.lease(1)
    assert lease.tenant == "a:job"
    await queue.finish(lease, done())


async def test_tenants_are_served_in_turns(store: RedisJobStore, queue: RedisQueue) -> None:
    await store.submit(job("big"), specs(100))
    await queue.lease(4)
    await store.submit(job("small"), specs(3))
    tenants = [lease.tenant for lease in await queue.lease(6)]
    assert tenants.count("small") == 3
    assert tenants.count("big") == 3


async def test_events_come_in_order_each_once_and_end_with_the_job(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(3))
    watching = asyncio.create_task(seen(store, job_id))
    await drained(queue)
    events = await watching
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.job.state for event in events][:2] == [JobState.QUEUED, JobState.RUNNING]
    assert events[-1].job.state is JobState.SUCCEEDED
    assert [event.item.number for event in events if event.item] == [1, 2, 3]
    assert [event.job.progress.processed for event in events if event.item] == [1, 2, 3]
    for after in range(len(events) + 1):
        assert await seen(store, job_id, after) == events[after:]


async def test_watchers_of_a_job_that_is_cut_off_leave_the_store_usable(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(1))
    for _ in range(20):
        watching = asyncio.create_task(seen(store, job_id, 1))
        await asyncio.sleep(0)
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert (await store.get("acme", job_id)).id == job_id


async def test_a_wait_ends_when_there_is_work(store: RedisJobStore, queue: RedisQueue) -> None:
    assert await queue.lease(1) == []
    waiting = asyncio.create_task(queue.wait(60))
    await store.submit(job(), specs(1))
    async with asyncio.timeout(5):
        await waiting
    assert len(await queue.lease(1)) == 1


async def test_jobs_are_listed_newest_first_by_page_and_filter(store: RedisJobStore, queue: RedisQueue) -> None:
    made = [await store.submit(job(), specs(1)) for _ in range(5)]
    await store.cancel("acme", made[1])
    first = await store.list_jobs("acme", jobs(page_size=3))
    second = await store.list_jobs("acme", jobs(page_size=3, page_token=first.next_page_token))
    listed = [*first.items, *second.items]
    assert sorted(each.id for each in listed) == sorted(made)
    assert [each.create_time for each in listed] == sorted((each.create_time for each in listed), reverse=True)
    assert (first.total_size, second.next_page_token) == (5, "")
    [cancelled] = (await store.list_jobs("acme", jobs(filter="state = CANCELLED"))).items
    assert cancelled.id == made[1]
    assert (await store.list_jobs("acme", jobs(filter='collection = "collections/books"'))).total_size == 5
    with pytest.raises(InvalidFilter):
        jobs(filter="name = x")


async def test_items_are_listed_in_the_order_found(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(25))
    for lease in await queue.lease(25):
        bad = lease.number % 5 == 0
        await queue.finish(lease, done(ItemChange.FAIL if bad else ItemChange.SUCCEED, error=CORRUPT if bad else None))
    numbers: list[int] = []
    token = ""
    while True:
        page = await store.list_items("acme", job_id, items(job_id, page_size=10, page_token=token))
        numbers += [item.number for item in page.items]
        token = page.next_page_token
        if not token:
            break
    assert numbers == list(range(1, 26))
    failed = await store.list_items("acme", job_id, items(job_id, filter="state = FAILED", page_size=2))
    assert ([item.number for item in failed.items], failed.total_size) == ([5, 10], 5)
    more = items(job_id, filter="state = FAILED", page_size=2, page_token=failed.next_page_token)
    assert [item.number for item in (await store.list_items("acme", job_id, more)).items] == [15, 20]
    for name in ("doc-5", "collections/books/documents/doc-5"):
        named = await store.list_items("acme", job_id, items(job_id, filter=f'document = "{name}"'))
        assert [item.spec.document_id for item in named.items] == ["doc-5"]
    elsewhere = items(job_id, filter='document = "collections/others/documents/doc-5"')
    assert (await store.list_items("acme", job_id, elsewhere)).total_size == 0
    backwards = await store.list_items("acme", job_id, items(job_id, order_by="name desc", page_size=2))
    assert [item.number for item in backwards.items] == [25, 24]
    again = items(job_id, order_by="name desc", page_size=2, page_token=backwards.next_page_token)
    assert [item.number for item in (await store.list_items("acme", job_id, again)).items] == [23, 22]
    third = await store.list_items("acme", job_id, items(job_id, page_size=10, page=3))
    assert [item.number for item in third.items] == [21, 22, 23, 24, 25]


async def test_ended_jobs_are_forgotten_after_their_retention(redis: Redis, queue: RedisQueue) -> None:
    store = RedisJobStore(redis, retention_s=0.2)
    job_id = await store.submit(job(), specs(2))
    await drained(queue)

    async def gone() -> bool:
        return (await store.list_jobs("acme", jobs())).total_size == 0

    assert await eventually(gone)
    with pytest.raises(JobNotFound):
        await store.get("acme", job_id)


async def test_what_is_done_leaves_only_the_count_of_its_events(server: Store) -> None:
    prefix = f"{secrets.token_hex(4)}:"
    async with Redis.open(server.url, prefix, events=Kept(seconds=0.2)) as redis:
        store, queue = RedisJobStore(redis, retention_s=0.2), RedisQueue(redis, "one", lease_s=LEASE_S)
        for _ in range(20):
            await store.submit(job(), specs(3))
            await store.submit(folder(full=True), [])
            await queue.lease(2)
        await eventually(lambda: _all_leased(queue))

        async def nothing() -> bool:
            await store.list_jobs("acme", jobs())
            left = {key.decode().removeprefix(prefix) for key in await redis.client.keys(f"{prefix}*")}
            return left <= {"bell", "fence", "schema", "turn", "logs", "news", "rung"}

        assert await eventually(nothing)


async def _all_leased(queue: RedisQueue) -> bool:
    """Ends whatever there is; true once there was nothing."""
    for lease in (leases := await queue.lease(50)):
        if lease.task is Task.EXPAND:
            await queue.expand(lease, 0, [DocumentSpec("a", path="a.md")], "", final=True)
        else:
            await queue.finish(lease, done())
    if leases:
        return False
    await asyncio.sleep(LEASE_S)
    return not await queue.adopt([])


async def test_what_was_acknowledged_survives_the_death_of_the_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    with store_in(tmp_path_factory.mktemp("s")) as server:
        async with Redis.open(server.url) as redis:
            store, queue = RedisJobStore(redis, retention_s=60), RedisQueue(redis, "one", lease_s=60)
            job_id = await store.submit(job(), specs(2))
            lease, _ = await queue.lease(2)
            await queue.finish(lease, done())
            server.kill()
            with pytest.raises(DependencyUnavailable):
                await store.get("acme", job_id)
            server.start()
            assert (await store.get("acme", job_id)).progress.succeeded == 1
            assert await queue.adopt([]) == 1
            await queue.finish(await only(queue), done())
            assert (await store.get("acme", job_id)).state is JobState.SUCCEEDED


def test_times_are_in_utc() -> None:
    assert moment(0).isoformat() == "1970-01-01T00:00:00+00:00"


async def keys_of(redis: Redis, tenant: str = "acme") -> list[bytes]:
    return [key async for key in redis.client.scan_iter(f"{redis.key(tenant, '')}*")]


async def test_an_erased_tenant_leaves_nothing_and_nobody_else_misses_anything(
    redis: Redis, store: RedisJobStore, queue: RedisQueue
) -> None:
    await store.submit(job(), specs(3), receipt("r1", "ImportDocuments"))
    await store.submit(folder(full=True), [])
    theirs = await store.submit(job("globex"), specs(2))
    leases = {lease.tenant: lease for lease in await queue.lease(2)}
    assert await queue.lock(leases["acme"], "uid", "doc-1")
    await queue.put_back(leases["globex"], 60, DOWN)
    ours = (await queue.lease(1))[0]
    if ours.tenant == "acme":
        await queue.put_back(ours, 60, DOWN)
    assert await keys_of(redis)
    dropped, done = await store.erase("acme")
    assert (dropped > 10, done) == (True, True)
    assert await store.erase("acme") == (0, True)
    assert await keys_of(redis) == []
    assert (await store.get("globex", theirs)).progress.total == 2
    assert await drained(queue) == 1
    delayed = await redis.client.zrange(f"{redis._prefix}delayed", 0, -1)
    assert len(delayed) == 1
    assert b"globex" in delayed[0]


async def test_whoever_still_works_for_an_erased_tenant_has_lost_the_lease_and_writes_nothing(
    redis: Redis, store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(2))
    lease, other = await queue.lease(2)
    await store.erase("acme")
    assert await queue.heartbeat([lease, other]) == ["LOST", "LOST"]
    for attempt in (
        queue.lock(lease, "uid", "doc-1"),
        queue.commit(lease, 1),
        queue.finish(lease, done()),
        queue.put_back(other, 0.0, DOWN),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    with pytest.raises(JobNotFound):
        await store.cancel("acme", job_id, receipt=receipt("r2", "CancelJob"))
    with pytest.raises(TenantDeleted):
        await store.submit(job(), specs(1))
    assert await store.recall(receipt("r2", "CancelJob")) is None
    assert await queue.lease(10) == []
    assert await keys_of(redis) == []


async def test_a_worker_that_hears_of_a_job_only_when_it_is_gone_has_lost_it(
    server: Store, redis: Redis, store: RedisJobStore
) -> None:
    await store.submit(job(), specs(1))
    async with Redis.open(server.url, redis._prefix) as second:
        worker = RedisQueue(second, "two", lease_s=LEASE_S)
        [lease] = await worker.lease(1)
        await store.erase("acme")
        second._assignments.clear()
        with pytest.raises(LeaseLost):
            await worker.assignment(lease)


async def test_an_admitted_tenant_begins_anew(store: RedisJobStore, queue: RedisQueue) -> None:
    await store.submit(job(), specs(1))
    await store.erase("acme")
    await store.admit("acme")
    assert not (await store.list_jobs("acme", jobs())).items
    await store.submit(job(), specs(2))
    assert await drained(queue) == 2
