"""The search graphs of indexes: when one is built, and how a copy of the shard with a graph takes the shard's place."""

import asyncio
import contextlib
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import structlog

from services.mesh.disk import Disk
from services.mesh.errors import DiskFull
from services.retrieval.adapters.edge_builder import Builder, BuilderFailed
from services.retrieval.adapters.edge_copies import replay
from services.retrieval.adapters.edge_engine import EdgeEngine, EngineDied, EngineFailed, ShardMissing
from services.retrieval.adapters.edge_folder import Manifest
from services.retrieval.adapters.edge_placement import OpenIndex, Placement
from services.retrieval.figures import BuildFigures

_REBUILT_SHARE_DELETED: Final = 0.2
# A build writes all of an index anew: a large one waits for more, which searches compare one by one (1.3 ms of 10,000).
_REBUILT_SHARE_UNINDEXED: Final = 0.05
_RETRY_BUILD_S: Final = 30.0
# The copy of a shard, and beside it the graph with the segments that it is built in.
_SIZE_OF_BUILD: Final = 3


class GraphBuilds:
    """Builds graphs in the background, one at a time, while their indexes are searched and written.

    Once an index has `threshold` points without a graph, its graph is built: the shard is copied (writes wait for that,
    reads do not), the copy optimised by a process of low priority, then a new engine opens it and repeats what was
    written meanwhile; the manifest names it, and searches go there from the next one on. A crash at any step leaves the
    old shard, complete.

    Attributes:
        building: Held while a graph is built.
    """

    def __init__(self, placement: Placement, disk: Disk, *, threshold: int, threads: int) -> None:
        self._placement = placement
        self._disk = disk
        self._threshold = threshold
        self._threads = threads
        self.building = asyncio.Lock()
        self._figures = BuildFigures()
        self._log = structlog.get_logger("retrieval.edge")

    async def wrote(self, index: OpenIndex, points: int) -> None:
        """Counts points that were written; enough of them start a build."""
        if index.unindexed is None:
            await self._placement.unindexed(index)
        else:
            index.unindexed += points
        self._build_if_due(index)

    def deleted(self, index: OpenIndex, points: int) -> None:
        """Counts points that were deleted; enough of them start a build."""
        index.deleted += points
        self._build_if_due(index)

    async def build(self, index: OpenIndex) -> None:
        """Builds the graph of an index now, and returns when searches use it."""
        self._start_build(index)
        if index.build is not None:
            await asyncio.shield(index.build)

    def _build_if_due(self, index: OpenIndex) -> None:
        built = index.manifest.built_points
        due = (index.unindexed or 0) >= points_that_start_a_build(self._threshold, built)
        due = due or bool(built and index.deleted >= max(self._threshold, _REBUILT_SHARE_DELETED * built))
        if due and asyncio.get_running_loop().time() >= index.no_build_before_s:
            self._start_build(index)

    def _start_build(self, index: OpenIndex) -> None:
        if index.build is None:
            index.build = asyncio.create_task(self._build(index))

    async def _build(self, index: OpenIndex) -> None:
        """Swaps the shard for a copy with a graph; where that fails, the shard stays and what was made is deleted."""
        live = index.manifest
        try:
            async with self.building:
                with self._figures.build():
                    await self._build_next(index)
        except (DiskFull, EngineDied, EngineFailed, ShardMissing, BuilderFailed, OSError) as error:
            index.no_build_before_s = asyncio.get_running_loop().time() + _RETRY_BUILD_S
            self._log.warning("build of the index failed", folder=str(index.shard), error=repr(error))
        finally:
            index.build = None
            if index.manifest is live:
                index.unindexed = None
                await self._stop_journal(index)
            await asyncio.to_thread(index.folder.clear, index.manifest)
        if any(each is index for each in self._placement.indexes.values()):
            self._build_if_due(index)  # of what was written meanwhile; there may be no other write for long

    async def _build_next(self, index: OpenIndex) -> None:
        generation = index.manifest.generation + 1
        size = await asyncio.to_thread(index.folder.size_bytes, index.manifest.generation)
        self._disk.check(_SIZE_OF_BUILD * size)
        source, target, journal = index.shard, index.folder.shard(generation), index.folder.journal(generation)
        async with AsyncExitStack() as started:
            builder = await Builder.start(source, target, index.manifest, self._threads)
            started.push_async_callback(builder.stop)
            old, _ = await self._placement.place(index)
            async with index.writing:
                await old.request("journal", source, str(journal))
                await builder.copy()
                index.unindexed, index.deleted = 0, 0
            await builder.built()
            new = await self._placement.start()
            started.push_async_callback(new.stop)
            replayed = await replay(new, target, journal, 0)
            async with index.writing, index.starting:
                await old.request("barrier", source)
                await replay(new, target, journal, replayed)
                points = await new.request("info", target)
                manifest = index.manifest.next(max(1, points - index.unindexed))
                former = index.engine
                try:
                    await _to_its_end(self._switch(index, new, manifest))
                finally:
                    if index.manifest is manifest:  # whoever gives the build up now comes too late
                        started.pop_all()
                        started.push_async_callback(lambda: _to_its_end(self._after(builder, former, source)))
        self._log.info("index built", folder=str(target), points=points)

    async def _switch(self, index: OpenIndex, engine: EdgeEngine, manifest: Manifest) -> None:
        """Has the index served from the shard that a manifest names, once that is stored: on disk and here alike."""
        await asyncio.to_thread(index.folder.store, manifest)
        index.engine, index.manifest = engine, manifest
        index.filtered_by.clear()  # some may have got their index after the copy

    async def _after(self, builder: Builder, former: EdgeEngine | None, source: Path) -> None:
        """Ends what served the shard that a build has replaced: its folder goes next."""
        await builder.stop()
        await self._placement.leave(former, source)

    async def _stop_journal(self, index: OpenIndex) -> None:
        engine = index.engine if index.manifest.built_points else self._placement.shared
        if engine is not None and engine.alive:
            with contextlib.suppress(EngineDied, ShardMissing, EngineFailed):
                await engine.request("journal", index.shard, None)


def points_that_start_a_build(threshold: int, built: int) -> float:
    """How many points without a graph do, in an index where `built` have one."""
    return max(threshold, _REBUILT_SHARE_UNINDEXED * built)


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits what must not be left half done; who cancels it waits for it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
