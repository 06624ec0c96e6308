"""Where indexes live: which engine serves each one that is open, how it is asked, and when it starts and ends."""

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from services.mesh.breakers import Breaker, breaker_of, failing
from services.mesh.disk import Disk
from services.mesh.errors import FailedPrecondition
from services.retrieval.adapters.edge_engine import EdgeEngine, EngineDied, ShardMissing, told
from services.retrieval.adapters.edge_folder import FolderLock, IndexFolder, Manifest
from services.retrieval.chunks import Distance, IndexId
from services.retrieval.ports import VECTOR_STORE

_REAP_EVERY_S: Final = 30.0
# What an engine that is gone, or does not start, is met with.
_DEAD: Final = failing(EngineDied, OSError)
# What a new shard may soon take: its write-ahead log is made in segments of 32 MiB, filled as they are used.
_EMPTY_SHARD_BYTES: Final = 32 * 2**20


@dataclass
class OpenIndex:
    """An index that is open: where it lives and what happened to it since its graph was built.

    Attributes:
        engine: An engine of its own, which an index with a graph gets; None: the shared one.
        writing: Held by each write, and by a build while it copies and while it switches.
        unindexed: Points written since; None until they have been counted.
        deleted: Points deleted since.
        breaker: Of an engine of its own: one that hangs leaves the others in use.
        filtered_by: Payload keys that searches of this shard compared with texts, for which an index was asked.
    """

    folder: IndexFolder
    manifest: Manifest
    engine: EdgeEngine | None = None
    breaker: Breaker | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    unindexed: int | None = None
    deleted: int = 0
    filtered_by: set[str] = field(default_factory=set)
    build: asyncio.Task[None] | None = None
    no_build_before_s: float = 0.0

    @property
    def shard(self) -> Path:
        return self.folder.shard(self.manifest.generation)


class Placement:
    """Has the indexes without a graph served by one engine that they share, and each other one by its own.

    Args:
        lock: Held by every engine too.
        schema: The version of a new index, and the latest that can be read.
        threads: Threads of an engine.
        max_open: Indexes the shared engine keeps open at a time.
        idle_s: An engine of a single index ends when unused for this long.

    Attributes:
        indexes: Those that are open.
        creating: Held while one is made or dropped.
        shared: The engine that is shared; None before its first start.
        breaker: What that one is asked through.
    """

    def __init__(
        self, root: Path, lock: FolderLock, disk: Disk, *, schema: int, threads: int, max_open: int, idle_s: float
    ) -> None:
        self._root = root
        self._lock = lock
        self._disk = disk
        self._schema = schema
        self._threads = threads
        self._max_open = max_open
        self._idle_s = idle_s
        self.indexes: dict[IndexId, OpenIndex] = {}
        self.creating = asyncio.Lock()
        self.shared: EdgeEngine | None = None
        self._starting = asyncio.Lock()
        self.breaker = breaker_of(VECTOR_STORE)

    # Indexes.

    def recover(self) -> None:
        """Finds the indexes of the folder, and deletes what is left of half a build, creation or deletion.

        Raises:
            UnknownSchema: An index is of a newer version.
        """
        for entry in sorted(self._root.iterdir()):
            if entry.is_dir():
                index = IndexId(entry.name)
                folder = IndexFolder(self._root, index)
                manifest = folder.load(self._schema)
                folder.clear(manifest)
                if manifest is not None:
                    self.indexes[index] = OpenIndex(folder, manifest)

    async def ensure(self, index: IndexId, dimension: int, distance: Distance) -> None:
        """Makes the index where there is none.

        Raises:
            FailedPrecondition: There is one of other dimensions or another distance.
        """
        async with self.creating:
            known = self.indexes.get(index)
            if known is None:
                self._disk.check(_EMPTY_SHARD_BYTES)
                folder = IndexFolder(self._root, index)
                manifest = Manifest(dimension, distance, self._schema)
                engine = await self.shared_engine()
                with told("create"), self.breaker.asking(_DEAD):
                    await engine.request("close", folder.shard(0))  # of a creation that was given up half-way
                    await asyncio.to_thread(folder.clear, None)
                    await engine.request("create", folder.shard(0), dimension, distance.value, self._threads)
                await asyncio.to_thread(folder.store, manifest)
                self.indexes[index] = OpenIndex(folder, manifest, unindexed=0)
            elif (known.manifest.dimension, known.manifest.distance) != (dimension, distance):
                found = f"{known.manifest.dimension} dimensions ({known.manifest.distance})"
                raise FailedPrecondition(f"the index has {found}, not {dimension} ({distance})")

    async def drop(self, index: IndexId) -> None:
        """Ends what is done with an index, and deletes it."""
        async with self.creating:
            gone = self.indexes.pop(index, None)
            if gone is None:
                return
            if gone.build is not None:
                await cancelled(gone.build)
            async with gone.writing:
                await asyncio.to_thread(gone.folder.forget)
                await self.leave(gone.engine, gone.shard)
                await asyncio.to_thread(gone.folder.clear, None)

    async def close(self) -> None:
        """Gives up the builds and ends the engines; nothing they acknowledged is lost."""
        for task in [index.build for index in self.indexes.values()]:
            if task is not None:
                await cancelled(task)
        engines = [index.engine for index in self.indexes.values()]
        await asyncio.gather(*(engine.stop() for engine in (self.shared, *engines) if engine is not None))

    # Reads and writes.

    async def read(self, index: IndexId, operation: str, *arguments: Any) -> Any:
        """The engine's answer; None where there is no such index. Repeated once when the engine dies."""
        known = self.indexes.get(index)
        if known is None:
            return None
        with told(operation), self._breaker_of(known).asking(_DEAD):
            for repeated in (False, True):
                known = self.indexes.get(index)
                if known is None:
                    break
                engine, shard = await self.place(known)
                try:
                    return await engine.request(operation, shard, *arguments)
                except (EngineDied, ShardMissing):
                    if repeated:
                        raise
        return None

    async def write(self, index: OpenIndex, operation: str, *arguments: Any) -> Any:
        """The engine's answer; not repeated, since what a dead one was told may have been done."""
        with told(operation):
            async with index.writing:
                with self._breaker_of(index).asking(_DEAD):
                    engine, shard = await self.place(index)
                    return await engine.request(operation, shard, *arguments)

    async def unindexed(self, index: OpenIndex) -> int:
        """Points without a graph; after a restart, those beyond what the graph was built of."""
        if index.unindexed is None:
            with told("info"), self._breaker_of(index).asking(_DEAD):
                engine, shard = await self.place(index)
                points = await engine.request("info", shard)
            index.unindexed = max(0, points - index.manifest.built_points)
        return index.unindexed

    # Engines.

    def pids(self) -> list[int]:
        """The engines that run."""
        engines = (self.shared, *(index.engine for index in self.indexes.values()))
        return [engine.pid for engine in engines if engine is not None and engine.alive]

    def _breaker_of(self, index: OpenIndex) -> Breaker:
        """What the engine that serves an index is asked through."""
        if not index.manifest.built_points:
            return self.breaker
        if index.breaker is None:
            index.breaker = self.breaker.part(lambda: self._ping(index))
        return index.breaker

    async def _ping(self, index: OpenIndex) -> None:
        engine, _ = await self.place(index)
        await engine.request("ping")

    async def place(self, index: OpenIndex) -> tuple[EdgeEngine, Path]:
        """The engine that serves an index, and the shard to ask it for."""
        while not index.manifest.built_points:
            engine = await self.shared_engine()
            if not index.manifest.built_points:
                return engine, index.shard
        async with index.starting:
            if index.engine is None or not index.engine.alive:
                index.engine = await self.start()
            return index.engine, index.shard

    async def shared_engine(self) -> EdgeEngine:
        """The one that indexes without a graph share; started where it does not run."""
        if self.shared is not None and self.shared.alive:
            return self.shared
        async with self._starting:
            if self.shared is None or not self.shared.alive:
                self.shared = await self.start()
            return self.shared

    async def start(self) -> EdgeEngine:
        """A new engine, which serves nothing yet."""
        return await EdgeEngine.start(max_open=self._max_open, keeping=self._lock.descriptor)

    async def leave(self, engine: EdgeEngine | None, shard: Path) -> None:
        """Closes a shard no request will name again, with its engine where that served it alone."""
        if engine is not None:
            await engine.idle()
            await engine.stop()
        elif self.shared is not None and self.shared.alive:
            with contextlib.suppress(EngineDied):
                await self.shared.request("close", shard)

    async def reap(self) -> None:
        """Ends, until it is cancelled, each engine of a single index that nobody has used for a while."""
        while True:
            await asyncio.sleep(min(_REAP_EVERY_S, self._idle_s))
            now_s = asyncio.get_running_loop().time()
            for index in list(self.indexes.values()):
                engine = index.engine
                if engine is not None and index.build is None and now_s - engine.asked_at_s > self._idle_s:
                    async with index.writing, index.starting:
                        if index.engine is engine:  # it may have died, and another been started meanwhile
                            index.engine = None
                            await engine.idle()
                            await engine.stop()


async def cancelled(task: asyncio.Task[None]) -> None:
    """Returns when a task that is given up has ended."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
