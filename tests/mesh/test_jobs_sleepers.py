"""Workers that sleep past their lease right before a write, and wake up when others have done their work and more."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest

from services.jobs.adapters.diagnosis import diagnose
from services.jobs.adapters.redis import Redis
from services.jobs.job import JobState
from services.jobs.leasing import Worker
from services.jobs.tasks import beginning
from services.mesh.errors import DependencyUnavailable
from tests.jobs_rig import Rig, prose, until
from tests.jobs_store import Store, store_in
from tests.side_effects import stepping


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis, lease_s=0.3, slots=1)


class Sleeper:
    """A worker that stays before its first write of a kind until it is woken."""

    def __init__(self, rig: Rig, effect: str) -> None:
        self.asleep, self.awake, self.wrote = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def before(name: str) -> None:
            if name == effect and not self.asleep.is_set():
                self.asleep.set()
                await self.awake.wait()

        async def after(name: str) -> None:
            if name == effect:
                self.wrote.set()

        tools = stepping(rig.tools("sleeper"), before=before, after=after)
        self.worker = Worker(
            tools.queue, beginning(tools), diagnose, slots=1, heartbeat_s=3600, attempts=3, backoff_s=0.01
        )

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.worker.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def wake(self) -> None:
        """Until it has given up what it was about to do."""
        self.awake.set()
        await until(lambda: not self.worker._active)


async def overtaken(rig: Rig, sleeper: Sleeper, job_id: str) -> None:
    """The job ends while the sleeper sleeps; then the document is imported anew, and the sleeper wakes up."""
    async with sleeper.working():
        await sleeper.asleep.wait()
        rig.embedding.fails = lambda texts: None
        async with rig.working("other"):
            await rig.ended(job_id)
            newest = await rig.ended(await rig.submit(await rig.put(prose(60, "newest"))))
            assert newest.state is JobState.SUCCEEDED
        before = (dict(rig.index.chunks), dict(rig.registry.documents), await rig.items(job_id))
        await sleeper.wake()
    assert not sleeper.wrote.is_set()
    assert (rig.index.chunks, rig.registry.documents, await rig.items(job_id)) == before
    assert rig.text_of("a.txt").split() == prose(60, "newest").split()


@pytest.mark.parametrize("effect", ["queue.commit", "index.upsert", "registry.record", "index.retire", "queue.finish"])
async def test_an_import_that_comes_late_writes_nothing(rig: Rig, effect: str) -> None:
    await rig.done(await rig.put(prose(40, "old")))
    await overtaken(rig, Sleeper(rig, effect), await rig.submit(await rig.put(prose(50, "new"))))


@pytest.mark.parametrize("effect", ["index.update_fields", "registry.record"])
async def test_new_fields_that_come_late_are_not_written(rig: Rig, effect: str) -> None:
    await rig.done(await rig.put(prose(40, "old")))
    await overtaken(rig, Sleeper(rig, effect), await rig.submit(await rig.put(prose(40, "old"), title="Late")))


@pytest.mark.parametrize("known", [True, False])
async def test_what_is_given_up_late_takes_nothing_away(rig: Rig, known: bool) -> None:
    if known:
        await rig.done(await rig.put(prose(40, "old")))
    rig.registry.oblivious = True
    rig.registry.limits = rig.registry.usage
    job_id = await rig.submit(await rig.put(prose(50, "new")))
    sleeper = Sleeper(rig, "index.retire" if known else "index.delete")
    async with sleeper.working():
        await sleeper.asleep.wait()
        rig.registry.limits = rig.registry.limits.__class__(1_000, 1_000, 1_000, 10**9)
        async with rig.working("other"):
            assert (await rig.ended(job_id)).state is JobState.SUCCEEDED
        await sleeper.wake()
    assert not sleeper.wrote.is_set()
    assert rig.text_of("a.txt").split() == prose(50, "new").split()


async def test_each_try_of_a_write_asks_whether_the_lease_holds(rig: Rig) -> None:
    """Who waits for the index to come back may wait past its lease."""
    rig.patience_s = 3600
    upsert, tries, back, asked = rig.index.upsert, asyncio.Event(), asyncio.Event(), []

    async def upsert_when_back(*args):  # type: ignore[no-untyped-def]
        tries.set()
        if not back.is_set():
            raise DependencyUnavailable("the index does not answer")
        asked.append(args)
        return await upsert(*args)

    rig.index.upsert = upsert_when_back  # type: ignore[method-assign]
    job_id = await rig.submit(await rig.put(prose(50, "new")))
    late = Sleeper(rig, "nothing")
    async with late.working():
        await tries.wait()
        async with rig.working("other"):
            await until(lambda: _begun_again(rig, job_id))
            back.set()
            assert (await rig.ended(job_id)).state is JobState.SUCCEEDED
        await late.wake()
    assert len(asked) == 1


async def _begun_again(rig: Rig, job_id: str) -> bool:
    return (await rig.items(job_id))[0].attempts == 2
