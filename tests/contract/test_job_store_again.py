"""The port JobStore where jobs run again, or are forgotten: retry, delete, dead letters. Held by Redis, real."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from services.jobs.adapters import redis_job_store
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_queue import RedisQueue
from services.jobs.job import (
    DocumentSpec,
    Failure,
    ItemChange,
    ItemState,
    Job,
    JobState,
    Lease,
    Replayed,
    Task,
)
from services.jobs.listing import dead_letters_filter, dead_letters_query
from services.mesh.errors import (
    DeadLetterNotFound,
    EtagMismatch,
    FailedPrecondition,
    InvalidFilter,
    JobNotFound,
    LeaseLost,
    RequestIdReused,
)
from services.mesh.filters import EVERYTHING
from services.mesh.lists import Page
from services.mesh.receipts import Receipt
from services.mesh.traces import Trace, belonging_to
from tests.contract.test_job_store import (
    CORRUPT,
    DOWN,
    done,
    drained,
    eventually,
    folder,
    items,
    job,
    jobs,
    keys_of,
    only,
    receipt,
    redis,
    seen,
    specs,
    store,
)
from tests.jobs_store import Store, store_in
from tests.spans import new_traceparent

__all__ = ["redis", "store"]

EMPTY = Failure(3, "EMPTY_DOCUMENT", "c.md: it is empty")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def queue(redis: Redis) -> RedisQueue:
    """Its leases outlast these tests on any machine."""
    return RedisQueue(redis, "one", lease_s=60)


def letters(**fields: Any) -> Any:
    return dead_letters_query(**{"filter": "", "order_by": "", "page_size": 0, "page_token": "", "page": 0, **fields})


async def failed_job(store: RedisJobStore, queue: RedisQueue, count: int = 5, bad: tuple[int, ...] = (2,)) -> Job:
    """An ended job, the only one with work, of which these items failed."""
    job_id = await store.submit(job(), specs(count))
    while leases := await queue.lease(50):
        for lease in leases:
            await queue.finish(lease, ending(lease, bad))
    return await store.get("acme", job_id)


def ending(lease: Lease, bad: tuple[int, ...]) -> Any:
    if lease.number in bad:
        return done(ItemChange.FAIL, error=CORRUPT, size_bytes=7, timings_ms={"read": 1.0})
    return done(chunks=2, size_bytes=10, index_revision=lease.number)


async def states(store: RedisJobStore, job_id: str) -> list[ItemState]:
    return [item.state for item in (await store.list_items("acme", job_id, items(job_id, page_size=100))).items]


async def test_a_retry_runs_the_failed_items_only_and_the_counts_stay_exact(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    before = await failed_job(store, queue)
    assert (before.state, before.progress.failed, before.progress.bytes) == (JobState.PARTIALLY_SUCCEEDED, 1, 47)
    again = await store.retry("acme", before.id)
    assert (again.id, again.attempt, again.state) == (before.id, 2, JobState.QUEUED)
    assert (again.error, again.end_time, again.purge_time) == (None, None, None)
    assert (again.progress.total, again.progress.succeeded, again.progress.failed) == (5, 4, 0)
    assert (again.progress.bytes, again.progress.chunks) == (40, 8)
    lease = await only(queue)
    assert (lease.number, lease.attempt, lease.deaths) == (2, 1, 0)
    assert await queue.lease(5) == []
    assert (await store.get("acme", before.id)).state is JobState.RUNNING
    await queue.finish(lease, done(chunks=3, size_bytes=9, index_revision=11))
    ended = await store.get("acme", before.id)
    assert (ended.state, ended.error, ended.index_revision) == (JobState.SUCCEEDED, None, 11)
    assert (ended.progress.processed, ended.progress.bytes, ended.progress.chunks) == (5, 49, 11)
    item = (await store.list_items("acme", before.id, items(before.id))).items[1]
    assert (item.state, item.attempts, item.error, item.timings_ms) == (ItemState.SUCCEEDED, 1, None, {})


async def test_a_retried_job_is_kept_as_long_as_it_runs_and_anew_from_its_end(
    store: RedisJobStore, queue: RedisQueue, redis: Redis
) -> None:
    before = await failed_job(store, queue)

    async def lasting() -> set[bool]:
        """Whether what is kept of the job has no end."""
        kept = [key for key in await keys_of(redis) if key.endswith(f":{before.id}".encode())]
        assert kept
        return {await redis.client.pttl(key) == -1 for key in kept}

    assert await lasting() == {False}
    await store.retry("acme", before.id)
    assert await lasting() == {True}
    assert not await redis.client.exists(redis.key("acme", "purge"))
    await drained(queue)
    assert await lasting() == {False}
    ended = await store.get("acme", before.id)
    assert ended.end_time and ended.purge_time and before.purge_time
    assert (ended.purge_time - ended.end_time).total_seconds() == 3600
    assert ended.purge_time > before.purge_time


async def test_the_rate_of_a_retried_job_counts_from_the_retry(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 40, tuple(range(1, 41)))
    await asyncio.sleep(0.5)
    await store.retry("acme", before.id)
    assert (await store.get("acme", before.id)).progress.items_per_second == 0
    for lease in await queue.lease(20):
        await queue.finish(lease, done())
    running = await store.get("acme", before.id)
    assert running.progress.items_per_second > 0
    assert running.estimated_end_time is not None


@pytest.mark.parametrize("state", [JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING, JobState.SUCCEEDED])
async def test_only_what_ended_with_something_left_is_retried(
    store: RedisJobStore, queue: RedisQueue, state: JobState
) -> None:
    job_id = await store.submit(job(), specs(2))
    if state is not JobState.QUEUED:
        leases = await queue.lease(2)
    if state is JobState.CANCELLING:
        await store.cancel("acme", job_id)
    if state is JobState.SUCCEEDED:
        for lease in leases:
            await queue.finish(lease, done())
    found = await store.get("acme", job_id)
    assert found.state is state
    for attempt in (store.retry("acme", job_id), asyncio.to_thread(found.retried)):
        with pytest.raises(FailedPrecondition):
            await attempt
    assert (await store.get("acme", job_id)).attempt == 1


async def test_work_says_which_call_had_it_queued_last(store: RedisJobStore, queue: RedisQueue) -> None:
    async def failed(lease: Lease) -> str:
        await queue.finish(lease, done(ItemChange.FAIL, error=CORRUPT))
        return lease.queued_by

    job_id = await store.submit(job(), specs(1))  # by no call
    assert [await failed(each) for each in await queue.lease(1)] == [""]
    with belonging_to(Trace("r-1", new_traceparent(1))):
        await store.retry("acme", job_id)
    assert [await failed(each) for each in await queue.lease(1)] == [new_traceparent(1)]
    with belonging_to(Trace("r-2", new_traceparent(2))):
        await store.replay("acme", [(job_id, 1)], all_or_none=True)
    assert [await failed(each) for each in await queue.lease(1)] == [new_traceparent(2)]
    with belonging_to(Trace("r-3", new_traceparent(3))):
        await store.submit(job(), specs(1))
    (lease,) = await queue.lease(1)
    assert lease.queued_by == new_traceparent(3)


async def test_a_retry_is_refused_to_a_stale_etag_and_done_once_for_a_request_id(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    before = await failed_job(store, queue)
    with pytest.raises(EtagMismatch):
        await store.retry("acme", before.id, etag='"1-FAILED"')
    asked = receipt("r-1", "RetryJob")
    answers = await asyncio.gather(
        *(store.retry("acme", before.id, etag=before.etag, receipt=asked) for _ in range(20))
    )
    assert {answer.attempt for answer in answers} == {2}
    assert await drained(queue) == 1
    assert (await store.retry("acme", before.id, receipt=asked)).state is JobState.SUCCEEDED
    with pytest.raises(RequestIdReused):
        await store.retry("acme", before.id, receipt=Receipt("acme", "RetryJob", "r-1", "another"))
    with pytest.raises(JobNotFound):
        await store.retry("globex", before.id)


async def test_of_many_retries_at_once_one_is_done(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue)
    answers = await asyncio.gather(*(store.retry("acme", before.id) for _ in range(20)), return_exceptions=True)
    assert sum(isinstance(answer, FailedPrecondition) for answer in answers) == 19
    assert await drained(queue) == 1
    assert (await store.get("acme", before.id)).attempt == 2


async def test_events_of_a_retried_job_go_on_by_sequence(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue)
    first = await seen(store, before.id)
    await store.retry("acme", before.id)
    watching = asyncio.create_task(seen(store, before.id))
    await drained(queue)
    events = await watching
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[: len(first)] == first
    assert [event.job.state for event in events[len(first) :]] == [
        JobState.QUEUED,
        JobState.RUNNING,
        JobState.SUCCEEDED,
    ]
    assert await seen(store, before.id, len(first)) == events[len(first) :]


async def test_a_cancelled_job_is_resumed_where_it_was(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(6))
    first, second, third = await queue.lease(3)
    await queue.finish(first, done(chunks=2))
    await queue.finish(second, done(ItemChange.FAIL, error=CORRUPT))
    await store.cancel("acme", job_id)
    await queue.finish(third, done(ItemChange.CANCEL))
    cancelled = await store.get("acme", job_id)
    assert (cancelled.state, cancelled.progress.processed) == (JobState.CANCELLED, 2)
    again = await store.retry("acme", job_id)
    assert (again.state, again.progress.processed, again.progress.failed) == (JobState.QUEUED, 1, 0)
    assert await states(store, job_id) == [ItemState.SUCCEEDED] + [ItemState.QUEUED] * 5
    with pytest.raises(LeaseLost):
        await queue.finish(third, done())
    assert await drained(queue) == 5
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.succeeded, ended.progress.processed) == (JobState.SUCCEEDED, 6, 6)


async def test_a_job_cancelled_before_it_began_runs_when_it_is_retried(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(3))
    for _ in range(3):
        await store.cancel("acme", job_id)
        await store.retry("acme", job_id)
    assert await drained(queue) == 3
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.processed, ended.attempt) == (JobState.SUCCEEDED, 3, 4)
    assert {item.attempts for item in (await store.list_items("acme", job_id, items(job_id))).items} == {1}


async def test_a_job_cancelled_when_all_was_done_ends_at_once_when_it_is_retried(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    job_id = await store.submit(job(), specs(1))
    lease = await only(queue)
    await queue.commit(lease, 1)
    await store.cancel("acme", job_id)
    await queue.finish(lease, done())
    assert (await store.get("acme", job_id)).state is JobState.CANCELLED
    assert (await store.retry("acme", job_id)).state is JobState.SUCCEEDED


async def test_a_long_job_is_resumed_a_page_at_a_time_and_its_counts_tell(
    store: RedisJobStore, queue: RedisQueue, redis: Redis
) -> None:
    before = await failed_job(store, queue, 1200, tuple(range(1, 1201)))
    again = await store.retry("acme", before.id)
    assert (again.progress.failed, again.state) == (700, JobState.QUEUED)
    assert (await states_of(store, before.id, "FAILED")).total_size == 700
    assert await drained(queue) == 1200
    ended = await store.get("acme", before.id)
    assert (ended.state, ended.progress.succeeded, ended.progress.failed) == (JobState.SUCCEEDED, 1200, 0)
    assert not await redis.client.exists(f"{redis._prefix}resuming")


async def states_of(store: RedisJobStore, job_id: str, state: str) -> Page[Any]:
    return await store.list_items("acme", job_id, items(job_id, filter=f"state = {state}"))


async def test_a_resumption_stops_with_a_cancel_and_goes_on_with_the_next_retry(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    before = await failed_job(store, queue, 1200, tuple(range(1, 1201)))
    await store.retry("acme", before.id)
    cancelled = await store.cancel("acme", before.id)
    assert (cancelled.state, cancelled.progress.failed) == (JobState.CANCELLED, 700)
    assert cancelled.error == CORRUPT
    assert await queue.lease(50) == []
    await store.retry("acme", before.id)
    assert await drained(queue) == 1200
    assert (await store.get("acme", before.id)).state is JobState.SUCCEEDED


async def test_a_listing_that_failed_goes_on_where_it_stopped(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(folder(), [])
    lease = await only(queue)
    await queue.expand(lease, 0, [DocumentSpec("a", path="a.md")], "a.md", final=False)
    await queue.finish(lease, done(ItemChange.FAIL, error=DOWN))
    assert await drained(queue) == 1
    assert (await store.get("acme", job_id)).state is JobState.PARTIALLY_SUCCEEDED
    again = await store.retry("acme", job_id)
    assert (again.progress.total_final, again.progress.processed) == (False, 1)
    lease = await only(queue)
    assert (lease.task, lease.checkpoint, lease.total) == (Task.EXPAND, "a.md", 1)
    await queue.expand(lease, 1, [DocumentSpec("b", path="b.md")], "", final=True)
    assert await drained(queue) == 1
    ended = await store.get("acme", job_id)
    assert (ended.state, ended.progress.total, ended.progress.succeeded) == (JobState.SUCCEEDED, 2, 2)


@pytest.mark.parametrize("leased", [False, True])
async def test_a_listing_that_was_cancelled_goes_on(store: RedisJobStore, queue: RedisQueue, leased: bool) -> None:
    job_id = await store.submit(folder(), [])
    if leased:
        lease = await only(queue)
        await store.cancel("acme", job_id)
        await queue.finish(lease, done(ItemChange.CANCEL))
    else:
        await store.cancel("acme", job_id)
    assert (await store.get("acme", job_id)).state is JobState.CANCELLED
    await store.retry("acme", job_id)
    lease = await only(queue)
    assert lease.task is Task.EXPAND
    await queue.expand(lease, 0, [DocumentSpec("a", path="a.md")], "", final=True)
    assert await drained(queue) == 1
    assert (await store.get("acme", job_id)).state is JobState.SUCCEEDED


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_a_full_import_that_is_retried_still_knows_its_documents(
    store: RedisJobStore, queue: RedisQueue, end: str
) -> None:
    job_id = await store.submit(folder(full=True), [])
    found = [DocumentSpec("a", path="a.md"), DocumentSpec("b", path="b.md")]
    await queue.expand(await only(queue), 0, found, "", final=True)
    assert await finished(queue, 2) == 2
    sweep = await only(queue)
    if end == "failed":
        await queue.finish(sweep, done(ItemChange.FAIL, error=DOWN))
    else:
        await store.cancel("acme", job_id)
        await queue.finish(sweep, done(ItemChange.CANCEL))
    assert (await store.get("acme", job_id)).state.ended
    await store.retry("acme", job_id)
    again = await only(queue)
    assert again.task is Task.SWEEP
    assert again.fence > sweep.fence
    assert await queue.absent(again, ["a", "gone"]) == ["gone"]
    await queue.finish(again, done())
    assert (await store.get("acme", job_id)).state is JobState.SUCCEEDED


async def finished(queue: RedisQueue, count: int) -> int:
    for lease in (leases := await queue.lease(count)):
        await queue.finish(lease, done())
    return len(leases)


async def test_a_full_import_whose_documents_are_forgotten_is_not_retried(
    store: RedisJobStore, queue: RedisQueue, redis: Redis
) -> None:
    job_id = await store.submit(folder(full=True), [])
    await queue.expand(await only(queue), 0, [DocumentSpec("a", path="a.md")], "", final=True)
    await store.cancel("acme", job_id)
    await redis.client.delete(redis.key("acme", "docs", job_id))
    with pytest.raises(FailedPrecondition, match="import them again"):
        await store.retry("acme", job_id)
    assert (await store.get("acme", job_id)).state is JobState.CANCELLED


async def test_a_deleted_job_leaves_nothing(store: RedisJobStore, queue: RedisQueue, redis: Redis) -> None:
    assert await store.submit(job("globex"), specs(1))
    await drained(queue)
    baseline = sorted(await redis.client.keys(f"{redis._prefix}*"))
    job_id = await store.submit(job(), specs(3), receipt("r-1", "ImportDocuments"))
    for lease in await queue.lease(3):
        await queue.finish(lease, ending(lease, (2,)))
    await store.retry("acme", job_id, receipt=receipt("r-2", "RetryJob"))
    await store.cancel("acme", job_id, receipt=receipt("r-3", "CancelJob"))
    assert await queue.lease(5) == []
    before = await store.get("acme", job_id)
    deleted = await store.delete("acme", job_id, etag=before.etag)
    assert (deleted.id, deleted.state, deleted.progress) == (job_id, JobState.CANCELLED, before.progress)
    with pytest.raises(JobNotFound):
        await store.get("acme", job_id)
    with pytest.raises(JobNotFound):
        await seen(store, job_id)
    assert (await store.list_jobs("acme", jobs())).total_size == 0
    assert (await store.list_dead_letters("acme", letters())).total_size == 0
    assert await store.recall(receipt("r-1", "ImportDocuments")) is None
    passing = [key async for key in redis.client.scan_iter(f"{redis.key('acme', 'once')}:~*")]
    assert all([await redis.client.pttl(key) > 0 for key in passing])
    if passing:
        await redis.client.delete(*passing)
    assert await redis.client.delete(redis.key("acme", "log")) == 1  # what happened stays known for a while
    assert sorted(await redis.client.keys(f"{redis._prefix}*")) == baseline


async def test_a_job_that_has_not_ended_is_not_deleted(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(1))
    with pytest.raises(FailedPrecondition):
        await store.delete("acme", job_id)
    with pytest.raises(FailedPrecondition):
        (await store.get("acme", job_id)).forgotten()
    lease = await only(queue)
    with pytest.raises(FailedPrecondition):
        await store.delete("acme", job_id)
    await queue.finish(lease, done())
    with pytest.raises(EtagMismatch):
        await store.delete("acme", job_id, etag='"1-RUNNING"')
    with pytest.raises(JobNotFound):
        await store.delete("globex", job_id)
    assert (await store.delete("acme", job_id)).state is JobState.SUCCEEDED


async def test_a_delete_is_done_once_for_a_request_id_and_answers_the_same(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    before = await failed_job(store, queue)
    asked = receipt("r-1", "DeleteJob")
    answers = await asyncio.gather(*(store.delete("acme", before.id, receipt=asked) for _ in range(10)))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0].progress == before.progress
    with pytest.raises(RequestIdReused):
        await store.delete("acme", before.id, receipt=Receipt("acme", "DeleteJob", "r-1", "another"))
    with pytest.raises(JobNotFound):
        await store.delete("acme", before.id)


async def test_what_a_deleted_job_left_in_the_queue_is_dropped(
    store: RedisJobStore, queue: RedisQueue, redis: Redis
) -> None:
    job_id = await store.submit(job(), specs(3))
    await queue.put_back(await only(queue), 0.05, DOWN)
    await store.cancel("acme", job_id)
    await store.delete("acme", job_id)

    async def idle() -> bool:
        assert await queue.lease(5) == []
        left = {key.rpartition(b":")[2] for key in await redis.client.keys(f"{redis._prefix}*")}
        return not left & {b"queue", b"delayed"}

    await eventually(idle)


async def test_every_item_that_failed_is_a_dead_letter_with_its_reason(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 5, (2, 4))
    page = await store.list_dead_letters("acme", letters(order_by="create_time"))
    assert [(letter.id, letter.item.attempts, letter.item.error) for letter in page.items] == [
        (f"{before.id}-2", 1, CORRUPT),
        (f"{before.id}-4", 1, CORRUPT),
    ]
    assert {letter.job.purge_time for letter in page.items} == {before.purge_time}
    assert page.total_size == before.progress.failed == 2
    assert (await store.list_dead_letters("globex", letters())).total_size == 0


async def test_dead_letters_are_listed_by_page_filter_and_order(store: RedisJobStore, queue: RedisQueue) -> None:
    made = [await failed_job(store, queue, 5, (1, 3, 5)) for _ in range(4)]
    for order_by in ("", "create_time", "attempts desc", "attempts, create_time desc"):
        for filter in ("", "attempts = 1", f'reason = "{CORRUPT.reason}"', 'collection = "collections/books"'):
            found: list[str] = []
            token = ""
            while True:
                asked = letters(order_by=order_by, filter=filter, page_size=5, page_token=token)
                page = await store.list_dead_letters("acme", asked)
                found += [letter.id for letter in page.items]
                assert page.total_size == 12
                token = page.next_page_token
                if not token:
                    break
            assert len(found) == len(set(found)) == 12
            numbered = await store.list_dead_letters(
                "acme", letters(order_by=order_by, filter=filter, page_size=5, page=3)
            )
            assert [letter.id for letter in numbered.items] == found[10:]
    newest = (await store.list_dead_letters("acme", letters(page_size=1))).items[0]
    assert newest.job.id == made[-1].id
    for filter, count in (
        (f'job = "jobs/{made[0].id}"', 3),
        ('document = "collections/books/documents/doc-3"', 4),
        ('source_uri = "doc-1" AND attempts > 0', 4),
        ('create_time < "2000-01-01T00:00:00Z"', 0),
        ('reason = "OTHER"', 0),
    ):
        assert (await store.list_dead_letters("acme", letters(filter=filter))).total_size == count, filter
    with pytest.raises(InvalidFilter):
        letters(filter="name = x")


async def test_a_replayed_item_is_queued_again_with_attempts_anew_and_its_job_runs_again(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    before = await failed_job(store, queue, 5, (2, 4))
    assert await store.replay("acme", [(before.id, 4)], all_or_none=True) == Replayed(1, (before.id,))
    again = await store.get("acme", before.id)
    assert (again.state, again.attempt, again.progress.failed) == (JobState.QUEUED, 2, 1)
    assert again.error == CORRUPT
    [left] = (await store.list_dead_letters("acme", letters())).items
    assert (left.item.number, left.job.purge_time) == (2, None)
    lease = await only(queue)
    assert (lease.number, lease.attempt) == (4, 1)
    await store.replay("acme", [(before.id, 2)], all_or_none=True)
    running = await store.get("acme", before.id)
    assert (running.state, running.attempt, running.progress.failed, running.error) == (JobState.RUNNING, 2, 0, None)
    await queue.finish(lease, done())
    await queue.finish(await only(queue), done(ItemChange.FAIL, error=EMPTY))
    ended = await store.get("acme", before.id)
    assert (ended.state, ended.progress.processed, ended.error) == (JobState.PARTIALLY_SUCCEEDED, 5, EMPTY)
    [left] = (await store.list_dead_letters("acme", letters())).items
    assert left.item.error == EMPTY


async def test_the_error_of_a_job_is_of_an_item_that_still_failed(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(2))
    first, second = await queue.lease(2)
    await queue.finish(first, done(ItemChange.FAIL, error=CORRUPT))
    await queue.finish(second, done(ItemChange.FAIL, error=EMPTY))
    assert (await store.get("acme", job_id)).error == CORRUPT
    await store.replay("acme", [(job_id, 1)], all_or_none=True)
    await drained(queue)
    assert (await store.get("acme", job_id)).error == EMPTY


async def test_the_error_of_a_job_names_no_document_that_is_not_for_all(
    store: RedisJobStore, queue: RedisQueue
) -> None:
    secret = DocumentSpec("secret", principals=("user:ann",), content_hash="ab" * 32)
    job_id = await store.submit(job(), [*specs(1), secret])
    first, second = await queue.lease(2)
    await queue.finish(first, done(ItemChange.FAIL, error=EMPTY))
    await queue.finish(second, done(ItemChange.FAIL, error=CORRUPT))
    await store.replay("acme", [(job_id, 1)], all_or_none=True)
    error = (await store.get("acme", job_id)).error
    assert error is not None
    assert (error.reason, CORRUPT.message in error.message) == (CORRUPT.reason, False)


async def test_all_that_is_named_is_replayed_or_nothing(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 5, (2, 4))
    for missing in ((before.id, 3), (before.id, 99), ("nowhere", 2), (before.id, 0), (before.id, -1)):
        with pytest.raises(DeadLetterNotFound):
            await store.replay("acme", [(before.id, 2), missing], all_or_none=True)
    with pytest.raises(DeadLetterNotFound):
        await store.replay("globex", [(before.id, 2)], all_or_none=True)
    assert (await store.get("acme", before.id)).attempt == 1
    assert await store.replay("acme", [(before.id, 2), (before.id, 3)], all_or_none=False) == Replayed(1, (before.id,))


async def test_validating_a_replay_tells_how_many_and_queues_nothing(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 5, (2, 4))
    both = [(before.id, 2), (before.id, 4)]
    assert await store.replay("acme", both, all_or_none=True, validate_only=True) == Replayed(2, (before.id,))
    assert (await store.get("acme", before.id)).state is before.state
    assert await queue.lease(5) == []


async def test_many_replays_at_once_queue_each_item_once(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 30, tuple(range(1, 31)))
    every = [(before.id, number) for number in range(1, 31)]
    asked = receipt("r-1", "ReplayDeadLetters")
    same = [store.replay("acme", every, all_or_none=False, receipt=asked) for _ in range(9)]
    others = [store.replay("acme", every, all_or_none=False) for _ in range(9)]
    answers = await asyncio.gather(*same, *others)
    assert len(set(answers[:9])) == 1
    assert answers[0].count + sum(answer.count for answer in answers[9:]) == 30
    leased = [lease.number for _ in range(40) for lease in await queue.lease(1)]
    assert sorted(leased) == list(range(1, 31))
    assert (await store.get("acme", before.id)).attempt == 2


async def test_a_repeated_replay_answers_the_same_though_the_items_run(store: RedisJobStore, queue: RedisQueue) -> None:
    before = await failed_job(store, queue, 3, (2,))
    asked = receipt("r-1", "ReplayDeadLetters")
    for _ in range(3):
        again = await store.replay("acme", [(before.id, 2)], all_or_none=True, receipt=asked)
        assert again == Replayed(1, (before.id,))
        await drained(queue, ItemChange.FAIL)
    assert (await store.get("acme", before.id)).attempt == 2


async def test_dead_letters_of_a_cancelled_job_wait_for_its_retry(store: RedisJobStore, queue: RedisQueue) -> None:
    job_id = await store.submit(job(), specs(3))
    await queue.finish(await only(queue), done(ItemChange.FAIL, error=CORRUPT))
    await store.cancel("acme", job_id)
    assert (await store.list_dead_letters("acme", letters())).total_size == 1
    with pytest.raises(FailedPrecondition, match="resume it"):
        await store.replay("acme", [(job_id, 1)], all_or_none=True)
    assert await store.replay("acme", [(job_id, 1)], all_or_none=False) == Replayed(0, ())
    assert await store.find_dead_letters("acme", EVERYTHING, 10) == []
    await store.retry("acme", job_id)
    assert (await store.list_dead_letters("acme", letters())).total_size == 0
    assert await drained(queue) == 3


async def test_dead_letters_are_found_by_filter_the_oldest_first(store: RedisJobStore, queue: RedisQueue) -> None:
    first = await failed_job(store, queue, 3, (1, 2, 3))
    second = await failed_job(store, queue, 3, (1, 2, 3))
    everything = await store.find_dead_letters("acme", EVERYTHING, 4)
    assert everything == [(first.id, 1), (first.id, 2), (first.id, 3), (second.id, 1)]
    some = await store.find_dead_letters("acme", dead_letters_filter(f'job = "jobs/{second.id}" AND attempts = 1'), 9)
    assert some == [(second.id, number) for number in (1, 2, 3)]


async def test_dead_letters_go_with_their_job(redis: Redis, queue: RedisQueue) -> None:
    store = RedisJobStore(redis, retention_s=0.05)
    job_id = await store.submit(job(), specs(1))
    await queue.finish(await only(queue), done(ItemChange.FAIL, error=CORRUPT))

    async def gone() -> bool:
        return (await store.list_dead_letters("acme", letters())).total_size == 0

    await eventually(gone)
    with pytest.raises(DeadLetterNotFound):
        await store.replay("acme", [(job_id, 1)], all_or_none=True)
    await redis.client.delete(*[key for key in await keys_of(redis) if b":once:~" in key] or ["none"])
    assert await keys_of(redis) == [redis.key("acme", "log").encode()]


async def test_jobs_are_listed_the_same_by_every_order_and_filter(
    store: RedisJobStore, queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_job_store, "_BRIEFS_AT_ONCE", 4)
    made = [(await failed_job(store, queue, 2, (2,) if at % 3 else ())).id for at in range(9)]
    for order_by in ("", "create_time", "create_time desc", "update_time desc", "end_time", "name"):
        for filter, ids in (
            ("", made),
            ("state = SUCCEEDED", made[::3]),
            ('collection = "collections/books" AND type = IMPORT', made),
            ('create_time > "2000-01-01T00:00:00Z" AND state != SUCCEEDED', [m for m in made if m not in made[::3]]),
        ):
            found: list[str] = []
            token = ""
            while True:
                page = await store.list_jobs(
                    "acme", jobs(order_by=order_by, filter=filter, page_size=2, page_token=token)
                )
                found += [each.id for each in page.items]
                assert page.total_size == len(ids)
                token = page.next_page_token
                if not token:
                    break
            assert sorted(found) == sorted(ids), (order_by, filter)
            if order_by in ("create_time", "name", "end_time"):
                assert found == ids


async def test_a_page_of_jobs_goes_on_though_the_job_before_it_is_gone(store: RedisJobStore, queue: RedisQueue) -> None:
    made = [(await failed_job(store, queue, 1)).id for _ in range(6)]
    first = await store.list_jobs("acme", jobs(page_size=2))
    assert [each.id for each in first.items] == made[:3:-1]
    await store.delete("acme", first.items[-1].id)
    rest = await store.list_jobs("acme", jobs(page_size=9, page_token=first.next_page_token))
    assert ([each.id for each in rest.items], rest.total_size) == (made[3::-1], 5)
    numbered = await store.list_jobs("acme", jobs(page_size=2, page=3))
    assert [each.id for each in numbered.items] == [made[0]]
