"""Copies of the embedded index as it is at one instant, made while it is written."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ragweave.copying import copy_tree
from services.retrieval.adapters.edge_engine import EdgeEngine, EngineDied, EngineFailed, ShardMissing
from services.retrieval.adapters.edge_folder import IndexFolder, Manifest
from services.retrieval.adapters.edge_placement import OpenIndex, Placement
from services.retrieval.chunks import IndexId


@dataclass
class _Copy:
    """An index that is copied.

    Attributes:
        folder: Where the copy is.
        engine: Serves the index, and writes down what it is told since it was copied.
        source: The shard that was copied.
    """

    folder: IndexFolder
    manifest: Manifest
    engine: EdgeEngine
    source: Path

    @property
    def shard(self) -> Path:
        return self.folder.shard(self.manifest.generation)

    @property
    def journal(self) -> Path:
        return self.folder.journal(self.manifest.generation)


class ShardCopies:
    """Copies shards one after the other, each while its writes wait, and has what is written to it from then on written
    down. Then all writes wait until what is written down is complete: that is the instant. What was written down is
    repeated on the copies when the writes go on again.

    Args:
        building: Held while a graph is built: a shard is written down for one reader at a time.
    """

    def __init__(self, placement: Placement, building: asyncio.Lock) -> None:
        self._placement = placement
        self._indexes = placement.indexes
        self._building = building

    @asynccontextmanager
    async def copying(self, root: Path) -> AsyncIterator[None]:
        """Writes wait inside the block; after it the new folder `root` holds every index as it was then."""
        await asyncio.to_thread(root.mkdir, mode=0o700)
        copies: dict[IndexId, _Copy] = {}
        async with self._building:
            try:
                for name, index in list(self._indexes.items()):
                    async with index.writing:
                        if self._indexes.get(name) is index:  # not dropped while this waited
                            copies[name] = await self._copied(name, index, root)
                async with AsyncExitStack() as held:
                    await held.enter_async_context(self._placement.creating)
                    for index in self._indexes.values():
                        await held.enter_async_context(index.writing)
                    await self._complete(copies, root)
                    yield
                await self._repeat([copies[name] for name in sorted(copies)])
            finally:
                await asyncio.gather(*map(_written_down_no_more, copies.values()))

    async def _copied(self, name: IndexId, index: OpenIndex, root: Path) -> _Copy:
        """The copy of an index that nobody writes to meanwhile."""
        engine, source = await self._placement.place(index)
        copy = _Copy(IndexFolder(root, name), index.manifest, engine, source)
        await asyncio.to_thread(copy.shard.parent.mkdir, mode=0o700)
        await engine.request("journal", source, str(copy.journal))
        await asyncio.to_thread(copy_tree, source, copy.shard)
        return copy

    async def _complete(self, copies: dict[IndexId, _Copy], root: Path) -> None:
        """Ends what is written down, with all that was written; what was made since is copied now, and what an engine
        served that has ended since.
        """
        for name in copies.keys() - self._indexes.keys():
            await asyncio.to_thread(copies.pop(name).folder.clear, None)
        for name, index in self._indexes.items():
            with contextlib.suppress(EngineDied, ShardMissing):
                if name in copies:
                    await copies[name].engine.request("journal", copies[name].source, None)
                    continue
            if name in copies:
                await asyncio.to_thread(copies.pop(name).folder.clear, None)
            copies[name] = await self._copied(name, index, root)
            await _written_down_no_more(copies[name])

    async def _repeat(self, copies: list[_Copy]) -> None:
        """Has every copy be what its index was at the instant, and name its shard."""
        engine: EdgeEngine | None = None
        try:
            for copy in copies:
                if copy.journal.stat().st_size:
                    engine = engine or await self._placement.start()
                    await replay(engine, copy.shard, copy.journal, 0)
                    await engine.request("close", copy.shard)
                await asyncio.to_thread(copy.journal.unlink)
                await asyncio.to_thread(copy.folder.store, copy.manifest)
        finally:
            if engine is not None:
                await engine.stop()


async def replay(engine: EdgeEngine, shard: Path, journal: Path, offset: int) -> int:
    """Repeats on a shard what a journal holds beyond `offset`, to its end: where that is."""
    end = False
    while not end:
        offset, end = await engine.request("replay", shard, str(journal), offset)
    return offset


async def _written_down_no_more(copy: _Copy) -> None:
    with contextlib.suppress(EngineDied, ShardMissing, EngineFailed):
        await copy.engine.request("journal", copy.source, None)
