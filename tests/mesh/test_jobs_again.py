"""Jobs that run again, over the real queue and worker, the other services in memory; kills between any two steps.

`FILES_AMONG=1000` fails one corrupt file among so many.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.job import Event, Item, ItemState, Job, JobState
from services.jobs.listing import dead_letters_query, items_query
from services.mesh.errors import DeadLetterNotFound, FailedPrecondition
from tests.jobs_fakes import Killed
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in

LETTERS = dead_letters_query(filter="", order_by="", page_size=100, page_token="", page=0)
FILES = int(os.environ.get("FILES_AMONG", "250"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def redis(server: Store) -> AsyncIterator[Redis]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield redis


@pytest.fixture
def rig(redis: Redis) -> Rig:
    return Rig(redis)


async def failed_items(rig: Rig, job: Job) -> list[Item]:
    query = items_query(job.id, filter="state = FAILED", order_by="", page_size=100, page_token="", page=0)
    return list((await rig.store.list_items("acme", job.id, query)).items)


async def ended_again(rig: Rig, job_id: str, attempt: int) -> Job:
    """The job once this attempt has ended."""
    async with asyncio.timeout(100):
        async for event in rig.store.events("acme", job_id, 0):
            if event.job.state.ended and event.job.attempt == attempt:
                return await rig.store.get("acme", job_id)
    raise AssertionError("events ended before the job")


async def test_one_corrupt_file_among_many_fails_alone_and_a_retry_after_mending_it_succeeds(rig: Rig) -> None:
    rig.files.files = {f"{at:04}.md": prose(4, f"f{at}").encode() for at in range(FILES)}
    bad = f"{FILES // 2:04}.md"
    rig.files.files[bad] = b""
    job_id = await rig.submit_directory()
    async with rig.working():
        job = await ended_again(rig, job_id, 1)
        assert (job.state, job.progress.succeeded, job.progress.failed) == (
            JobState.PARTIALLY_SUCCEEDED,
            FILES - 1,
            1,
        )
        [item] = await failed_items(rig, job)
        assert item.spec.source_uri == f"docs/{bad}"
        assert item.error is not None
        assert (item.error.reason, bad in item.error.message) == ("EMPTY_DOCUMENT", True)
        assert len(rig.registry.documents) == FILES
        embedded = len(rig.embedding.texts)

        again = await ended_again(rig, (await rig.store.retry("acme", job_id)).id, 2)
        assert (again.state, again.progress.failed, len(rig.embedding.texts)) == (
            JobState.PARTIALLY_SUCCEEDED,
            1,
            embedded,
        )
        rig.files.files[bad] = b"It is mended."
        await rig.store.retry("acme", job_id)
        mended = await ended_again(rig, job_id, 3)
    assert (mended.state, mended.progress.succeeded, mended.error) == (JobState.SUCCEEDED, FILES, None)
    assert len(rig.embedding.texts) == embedded + 1
    assert mended.progress.chunks == len(rig.index.chunks)
    assert mended.index_revision == rig.index.writes
    assert rig.text_of(bad) == "It is mended."


async def test_a_document_that_killed_its_workers_is_a_dead_letter_and_can_be_replayed(rig: Rig) -> None:
    rig.embedding.fails = lambda texts: RuntimeError("a defect")
    job = await rig.done(await rig.put(prose(8)))
    [letter] = (await rig.store.list_dead_letters("acme", LETTERS)).items
    assert (letter.item.attempts, letter.item.error and letter.item.error.reason) == (rig.attempts, "INTERNAL")
    rig.embedding.fails = lambda texts: None
    async with rig.working():
        await rig.store.replay("acme", [(job.id, 1)], all_or_none=True)
        mended = await ended_again(rig, job.id, 2)
    [item] = await rig.items(mended)
    assert (mended.state, item.state, item.attempts) == (JobState.SUCCEEDED, ItemState.SUCCEEDED, 1)


async def test_a_cancelled_import_is_resumed_and_does_nothing_twice(rig: Rig) -> None:
    rig.slots = 1
    specs = [await rig.put(prose(8, f"w{at}"), f"{at}.txt") for at in range(12)]
    job_id = await rig.submit(*specs)
    async with rig.working():
        async for event in rig.store.events("acme", job_id, 0):
            if event.job.progress.succeeded == 3:
                await rig.store.cancel("acme", job_id)
        cancelled = await rig.store.get("acme", job_id)
        assert cancelled.state is JobState.CANCELLED
        assert 3 <= cancelled.progress.succeeded < 12
        await rig.store.retry("acme", job_id)
        job = await ended_again(rig, job_id, 2)
    assert (job.state, job.progress.succeeded, job.progress.skipped) == (JobState.SUCCEEDED, 12, 0)
    assert len(rig.registry.records) == 12
    assert job.progress.chunks == len(rig.index.chunks)


Change = Callable[[RedisJobStore, str], Awaitable[object]]


async def _retry(store: RedisJobStore, job_id: str) -> None:
    await store.retry("acme", job_id)


async def _replay(store: RedisJobStore, job_id: str) -> None:
    await store.replay("acme", [(job_id, 2), (job_id, 3)], all_or_none=True)


@pytest.mark.parametrize("change", [_retry, _replay])
async def test_a_kill_between_any_two_steps_of_another_run_loses_and_doubles_nothing(
    server: Store, change: Change
) -> None:
    for at in range(200):
        async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
            rig = Rig(redis, slots=1, attempts=5)
            rig.files.files = {"1.md": prose(40, "a").encode(), "2.md": b"", "3.md": b""}
            job_id = await rig.submit_directory()
            async with rig.working():
                assert (await rig.ended(job_id)).progress.failed == 2
            rig.files.files |= {"2.md": prose(40, "b").encode(), "3.md": prose(40, "c").encode()}
            await change(rig.store, job_id)
            rig.trap.seen.clear()
            rig.trap.at = at
            killed = await _worked_until_killed(rig, job_id)
            rig.trap.at = -1
            async with rig.working():
                job = await ended_again(rig, job_id, 2)
            assert (job.state, job.progress.succeeded, job.progress.processed) == (JobState.SUCCEEDED, 3, 3), at
            assert job.progress.chunks == len(rig.index.chunks), at
            assert [rig.text_of(f"{n}.md").split()[0] for n in (1, 2, 3)] == ["a0", "b0", "c0"], at
            assert max(item.attempts for item in await rig.items(job)) <= 2, at
            assert (await rig.store.list_dead_letters("acme", LETTERS)).total_size == 0, at
            events = [event async for event in rig.store.events("acme", job_id, 0)]
            assert [event.sequence for event in events] == list(range(1, len(events) + 1)), at
            if not killed:
                assert at > 5
                return
    raise AssertionError("more steps than expected")


async def _worked_until_killed(rig: Rig, job_id: str) -> bool:
    """A worker works until it is killed, or the job has ended."""
    try:
        async with rig.working() as worker:
            ended = asyncio.create_task(ended_again(rig, job_id, 2))
            await asyncio.wait({worker, ended}, return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            await asyncio.gather(ended, return_exceptions=True)
    except (Killed, BaseExceptionGroup):
        return True
    return False


async def test_progress_tells_the_states_of_the_items_after_every_event(rig: Rig) -> None:
    """Cancels, retries and replays come at random while it runs; each event is held to what came before."""
    rig.embedding.fails = lambda texts: RuntimeError("x") if any("bad" in text for text in texts) else None
    rig.attempts = 1
    specs = [await rig.put(prose(4, "bad" if at % 4 == 0 else f"w{at}"), f"{at}.txt") for at in range(24)]
    job_id = await rig.submit(*specs)
    async with rig.working("one"), rig.working("two"):
        for change in (rig.store.cancel, rig.store.retry, _replayed(rig), rig.store.retry, rig.store.cancel) * 3:
            with suppress(FailedPrecondition, DeadLetterNotFound):
                await change("acme", job_id)
            await asyncio.sleep(0.02)
        rig.embedding.fails = lambda texts: None
        await _to_success(rig, job_id)
    events = [event async for event in rig.store.events("acme", job_id, 0)]
    _hold(events)
    job = await rig.store.get("acme", job_id)
    assert (job.progress.succeeded + job.progress.skipped, job.progress.failed) == (24, 0)
    assert {item.state for item in await rig.items(job)} <= {ItemState.SUCCEEDED, ItemState.SKIPPED}
    assert len(rig.registry.documents) == 24


def _replayed(rig: Rig) -> Callable[[str, str], Awaitable[object]]:
    async def change(tenant: str, job_id: str) -> None:
        for letter in (await rig.store.list_dead_letters(tenant, LETTERS)).items[:2]:
            await rig.store.replay(tenant, [(job_id, letter.item.number)], all_or_none=True)

    return change


async def _to_success(rig: Rig, job_id: str) -> None:
    async with asyncio.timeout(60):
        while True:
            async for _ in rig.store.events("acme", job_id, 0):
                pass
            job = await rig.store.get("acme", job_id)
            if job.state is JobState.SUCCEEDED:
                return
            if job.state.ended:
                await rig.store.retry("acme", job_id)


def _hold(events: list[Event]) -> None:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    for before, event in pairwise(events):
        progress = event.job.progress
        assert progress.processed <= progress.total == 24
        assert event.job.attempt - before.job.attempt in (0, 1)
        if event.item and event.item.state.ended and event.item.state is not ItemState.CANCELLED:
            assert progress.processed == before.job.progress.processed + 1
        if event.job.state in (JobState.SUCCEEDED, JobState.PARTIALLY_SUCCEEDED, JobState.FAILED):
            assert progress.processed == 24
