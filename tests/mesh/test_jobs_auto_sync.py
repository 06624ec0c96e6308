"""Collections that follow a directory by themselves: real syncs, what is watched in memory and on disk."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from pathlib import Path

import pytest

from services.jobs.adapters.folders import Folders
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_marks import RedisMarks
from services.jobs.adapters.watchfiles import WatchedDirectories
from services.jobs.auto_sync import AutoSync
from services.jobs.job import DirectoryImport, Job, JobState
from services.jobs.listing import jobs_query
from services.jobs.ports_bindings import Binding
from services.jobs.sources import Sources
from services.mesh.roots import Root, Roots
from tests.audit_fakes import FakeTrail
from tests.jobs_fakes import collection
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in
from tests.mesh.test_jobs_sync import documents, syncs

DOCS = DirectoryImport("", "docs")


class Told:
    """Bindings that a test tells of."""

    def __init__(self) -> None:
        self._told: asyncio.Queue[Mapping[str, Binding | None]] = asyncio.Queue()

    def tell(self, **bindings: Binding | None) -> None:
        self._told.put_nowait(bindings)

    async def follow(self) -> AsyncIterator[Mapping[str, Binding | None]]:
        while True:
            yield await self._told.get()


class Signals:
    """A watch that a test speaks for."""

    def __init__(self) -> None:
        self.waiting: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.timeout_s = 0.0
        self._changed: asyncio.Queue[frozenset[str]] = asyncio.Queue()

    def say(self, *paths: str) -> None:
        self._changed.put_nowait(frozenset(paths))

    async def changed(self, paths: Collection[str], timeout_s: float, woken: asyncio.Event) -> frozenset[str]:
        self.timeout_s = timeout_s
        self.waiting.put_nowait(frozenset(paths))
        said = asyncio.ensure_future(self._changed.get())
        learned = asyncio.ensure_future(woken.wait())
        done, left = await asyncio.wait({said, learned}, return_when=asyncio.FIRST_COMPLETED)
        for each in left:
            each.cancel()
        return said.result() if said in done else frozenset()


class Clock:
    """Time stands still."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Following:
    """An AutoSync and what it hears."""

    def __init__(self, rig: Rig, *, whole_s: float = 3600.0) -> None:
        self.rig = rig
        self.told, self.signals, self.clock, self.trail = Told(), Signals(), Clock(), FakeTrail()
        self.auto_sync = AutoSync(
            self.told,
            rig.files,
            syncs(rig),
            RedisMarks(rig.redis),
            self.signals,
            self.trail,
            look_s=30.0,
            rest_s=5.0,
            whole_s=whole_s,
            clock=self.clock,
        )

    async def bind(self, *, uid: str = "uid-1") -> None:
        """The collection follows the directory from now on; done when that is known."""
        self.told.tell(**{uid: Binding("acme", "books", DOCS)})
        learning = asyncio.ensure_future(self.auto_sync.learn())
        while uid not in self.auto_sync._bound:
            await asyncio.sleep(0)
        learning.cancel()

    async def look(self) -> None:
        """A look that is due."""
        self.clock.now_s += 30
        await self.auto_sync.look()

    async def say(self, *paths: str) -> None:
        """Something happened there, or the time is up; done when the next wait begins."""
        self.signals.say(*paths)
        await self.signals.waiting.get()

    async def jobs(self) -> list[Job]:
        """Those there are, once they have ended; the newest first."""
        query = jobs_query(filter="", order_by="", page_size=100, page_token="", page=0)
        async with self.rig.working():
            return [await self.rig.ended(each.id) for each in (await self.rig.store.list_jobs("acme", query)).items]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        rig = Rig(redis)
        rig.registry.collections["books"] = collection(source=DOCS)
        rig.files.files = {f"{at}.txt": prose(40, f"w{at}x").encode() for at in range(3)}
        yield rig


async def test_a_directory_is_synced_when_it_looks_otherwise_and_left_alone_when_it_does_not(rig: Rig) -> None:
    following = Following(rig)
    await following.bind()
    await following.look()
    await following.look()
    assert [job.state for job in await following.jobs()] == [JobState.SUCCEEDED]
    rig.files.files["new.txt"] = b"A new text."
    del rig.files.files["0.txt"]
    await following.look()
    await following.look()
    assert [job.progress.succeeded for job in await following.jobs()] == [1, 3]
    assert documents(rig) == ["1.txt", "2.txt", "new.txt"]
    assert [event.method.rpartition("/")[2] for event in following.trail.ended] == ["SyncCollection"] * 2


async def test_of_two_that_look_one_syncs(rig: Rig) -> None:
    one, other = Following(rig), Following(rig)
    await asyncio.gather(one.bind(), other.bind())
    await asyncio.gather(one.look(), other.look())
    assert len(await one.jobs()) == 1
    await asyncio.gather(one.look(), other.look())
    await other.look()
    assert len(await one.jobs()) <= 2, "the one that was refused looks once more, and then the mark is set"


async def test_what_changes_during_a_sync_is_synced_after_it(rig: Rig) -> None:
    following = Following(rig)
    await following.bind()
    await following.look()
    rig.files.files["new.txt"] = b"A new text."
    await following.look()
    assert len(await following.jobs()) == 1
    await following.look()
    assert len(await following.jobs()) == 2
    assert "new.txt" in documents(rig)


async def test_a_directory_that_looks_the_same_is_synced_now_and_then(rig: Rig) -> None:
    following = Following(rig, whole_s=0.01)
    await following.bind()
    await following.look()
    await following.jobs()
    while await rig.redis.client.exists(rig.redis.synced("acme", "uid-1")):
        await asyncio.sleep(0.005)
    await following.look()
    assert len(await following.jobs()) == 2


async def test_a_directory_that_is_gone_deletes_nothing_and_is_followed_again_when_it_is_back(rig: Rig) -> None:
    following = Following(rig)
    await following.bind()
    await following.look()
    await following.jobs()
    rig.files.gone = True
    await following.look()
    rig.files.gone = False
    rig.files.files["new.txt"] = b"A new text."
    await following.look()
    assert len(await following.jobs()) == 2
    assert documents(rig) == ["0.txt", "1.txt", "2.txt", "new.txt"]


@pytest.fixture
async def following(rig: Rig) -> AsyncIterator[Following]:
    """Hears of bindings and changes, has been told of one, and has synced it once."""
    following = Following(rig)
    tasks = [asyncio.create_task(following.auto_sync.learn()), asyncio.create_task(following.auto_sync.follow())]
    try:
        assert await following.signals.waiting.get() == frozenset()
        following.told.tell(**{"uid-1": Binding("acme", "books", DOCS)})
        assert await following.signals.waiting.get() == {"/docs"}
        yield following
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_change_that_is_told_of_is_looked_at_at_once_and_a_new_binding_too(
    rig: Rig, following: Following
) -> None:
    assert len(await following.jobs()) == 1
    following.clock.now_s += 5
    rig.files.files["new.txt"] = b"A new text."
    await following.say("/docs")
    assert len(await following.jobs()) == 2
    following.told.tell(**{"uid-1": None})
    await following.say("/docs")
    assert not following.auto_sync._bound


async def test_a_directory_that_changes_all_the_time_rests_after_each_sync(rig: Rig, following: Following) -> None:
    for second in range(1, 5):
        following.clock.now_s += 1
        rig.files.files[f"new-{second}.txt"] = b"A new text."
        await following.say("/docs")
        assert following.signals.timeout_s == 5 - second, "no change puts off the next look"
        assert len(await following.jobs()) == 1
    following.clock.now_s += 1
    await following.say()
    assert len(await following.jobs()) == 2
    assert len(documents(rig)) == 7
    assert following.signals.timeout_s == 30


async def test_a_directory_that_changes_during_its_sync_is_left_alone_until_the_next_look(
    rig: Rig, following: Following
) -> None:
    following.clock.now_s += 5
    for _ in range(3):
        rig.files.files["new.txt"] = secrets.token_bytes(8)
        await following.say("/docs")
        following.clock.now_s += 5
    assert len(following.trail.ended) == 2, "one job, and one that was refused because that has not ended"
    assert len(await following.jobs()) == 1
    following.clock.now_s += 15
    await following.say()
    assert len(await following.jobs()) == 2


async def test_a_directory_that_is_touched_and_looks_the_same_need_not_rest(rig: Rig, following: Following) -> None:
    following.clock.now_s += 5
    await following.say("/docs")
    rig.files.files["new.txt"] = b"A new text."
    await following.jobs()
    await following.say("/docs")
    assert len(await following.jobs()) == 2


async def test_the_system_tells_of_what_happens_in_directories(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    (one / "deep").mkdir(parents=True)
    other.mkdir()
    paths, woken = {str(one), str(other)}, asyncio.Event()
    with WatchedDirectories() as watch:
        assert await watch.changed(paths, 60, woken) == paths, "what happened before, nobody has seen"
        (one / "deep" / "a.txt").write_text("a")
        assert await watch.changed(paths, 60, woken) == {str(one)}
        (other / "b.txt").write_text("b")
        while (found := await watch.changed(paths, 60, woken)) != {str(other)}:
            assert found == {str(one)}
        waiting = asyncio.create_task(watch.changed(paths, 60, woken))
        await asyncio.sleep(0)
        woken.set()
        assert await waiting == frozenset()
        woken.clear()
        waiting = asyncio.create_task(watch.changed(paths, 60, woken))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


async def test_a_stamp_differs_with_names_sizes_times_and_globs_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("a")
    folders = Folders(Sources(Roots([Root("acme", tmp_path)])))
    directory, _ = await folders.resolve("acme", DOCS)
    assert folders.whereabouts("acme", directory) == str(tmp_path / "docs")
    stamps = [await folders.stamp("acme", directory)]
    assert await folders.stamp("acme", directory) == stamps[0]
    (tmp_path / "docs" / "b.txt").write_text("b")
    stamps.append(await folders.stamp("acme", directory))
    (tmp_path / "docs" / "b.txt").write_text("bb")
    stamps.append(await folders.stamp("acme", directory))
    (tmp_path / "docs" / "b.txt").rename(tmp_path / "docs" / "c.txt")
    stamps.append(await folders.stamp("acme", directory))
    globbed, _ = await folders.resolve("acme", DirectoryImport("", "docs", ("*.txt",)))
    stamps.append(await folders.stamp("acme", globbed))
    assert len(set(stamps)) == len(stamps)
