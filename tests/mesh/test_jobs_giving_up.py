"""Items that are given up: what they wrote is taken back, and where even that fails, nothing waits for ever."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.job import ItemState, Job, JobState
from services.jobs.listing import dead_letters_query
from services.mesh.errors import DeadlineExceeded, TextTooLong
from tests.jobs_rig import Rig, prose, until
from tests.jobs_store import Store, store_in

LETTERS = dead_letters_query(filter="", order_by="", page_size=100, page_token="", page=0)
SLOW = "it took too long"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


class Broken:
    """Makes the index refuse to retire and delete, after taking chunks, and the registry to record."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.asked = 0
        self.mended = False
        for port, names in ((rig.index, ("retire", "delete")), (rig.registry, ("record",))):
            for name in names:
                setattr(port, name, self._failing(getattr(port, name)))

    def _failing(self, call):  # type: ignore[no-untyped-def]
        async def ask(*args):  # type: ignore[no-untyped-def]
            if not self.mended:
                self.asked += 1
                raise DeadlineExceeded(SLOW)
            return await call(*args)

        return ask


async def half_written(rig: Rig) -> tuple[Broken, Job]:
    """A document over an older revision of it: its chunks are written, and that is all."""
    await rig.done(await rig.put(prose(40, "old")))
    broken = Broken(rig)
    return broken, await rig.done(await rig.put(prose(60, "new")))


async def test_an_item_that_cannot_even_be_given_up_fails_with_both_reasons_and_the_job_ends(rig: Rig) -> None:
    broken, job = await half_written(rig)
    [item] = await rig.items(job)
    assert (job.state, job.progress.failed, job.progress.chunks) == (JobState.FAILED, 1, 0)
    assert (item.state, item.attempts) == (ItemState.FAILED, rig.attempts)
    assert item.error is not None
    assert item.error.message == f"{SLOW}; giving it up failed too: DEADLINE_EXCEEDED: {SLOW}"
    assert broken.asked == 2 * rig.attempts
    [letter] = (await rig.store.list_dead_letters("acme", LETTERS)).items
    assert letter.item == item
    assert rig.registry.documents["books", "a.txt"].revision == 1


async def test_what_was_left_half_written_is_put_right_by_another_run(rig: Rig) -> None:
    broken, job = await half_written(rig)
    assert len({revision for revision, _, _ in rig.index.of("a.txt")}) == 2
    broken.mended = True
    async with rig.working():
        await rig.store.retry("acme", job.id)
        mended = await until(lambda: _ended(rig, job.id, 2))
    assert (mended.state, mended.progress.chunks) == (JobState.SUCCEEDED, len(rig.index.chunks))
    assert rig.text_of("a.txt").split() == prose(60, "new").split()


async def test_what_was_left_half_written_is_taken_back_where_another_run_fails_before_it_writes(rig: Rig) -> None:
    broken, job = await half_written(rig)
    broken.mended = True
    rig.embedding.fails = lambda texts: TextTooLong("a text is too long")
    async with rig.working():
        await rig.store.retry("acme", job.id)
        failed = await until(lambda: _ended(rig, job.id, 2))
    assert failed.state is JobState.FAILED
    assert rig.text_of("a.txt").split() == prose(40, "old").split()


async def test_a_cancel_does_not_wait_for_what_was_left_half_written_before(rig: Rig) -> None:
    broken, job = await half_written(rig)
    await rig.store.retry("acme", job.id)
    lease = await until(lambda: rig.tools().queue.lease(1))
    assert (lease[0].torn, lease[0].committing) == (True, False)
    await rig.store.cancel("acme", job.id)
    assert await rig.tools().queue.heartbeat(lease) == ["CANCEL"]
    assert not await rig.tools().queue.commit(lease[0], 3)
    broken.mended = True
    async with rig.working("two"):
        await rig.tools().queue.put_back(lease[0])
        cancelled = await until(lambda: _ended(rig, job.id, 2))
        assert cancelled.state is JobState.CANCELLED
        assert (await rig.items(job))[0].state is ItemState.CANCELLED
        await rig.store.retry("acme", job.id)
        assert (await until(lambda: _ended(rig, job.id, 3))).state is JobState.SUCCEEDED
    assert rig.text_of("a.txt").split() == prose(60, "new").split()


async def _ended(rig: Rig, job_id: str, attempt: int) -> Job | None:
    job = await rig.store.get("acme", job_id)
    return job if job.state.ended and job.attempt == attempt else None
