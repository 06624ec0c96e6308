"""What the embedded store takes besides time: memory, disk, opening, and a copy of it for a backup."""

import asyncio
import contextlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processors import children, used_s
from benchmarks.scale_store import INDEX, beside
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import VectorQuery
from services.retrieval.ports import VectorStore

_BLOCK_BYTES: Final = 512
_LOOK_EVERY_S: Final = 0.5
_WRITE_EVERY_S: Final = 0.02
_ENGINES: Final = b"services.retrieval.adapters.edge_"
# Which of a shard's files hold what, by a part of their path.
_PARTS: Final = {
    "wal": "log of writes",
    "vector_storage-dense": "dense vectors",
    "vector_index-dense": "graph",
    "vector_storage-sparse": "sparse vectors",
    "vector_index-sparse": "sparse vectors",
    "payload_storage": "texts and fields",
    "payload_index": "indexes of fields",
}


@dataclass(frozen=True)
class Memory:
    """Proportional share of memory (PSS), in bytes.

    Attributes:
        kept: What has no file behind it.
        of_files: What is in memory of files now; the kernel drops it where memory is short.
    """

    kept: int
    of_files: int

    @property
    def all(self) -> int:
        return self.kept + self.of_files


@dataclass(frozen=True)
class Copied:
    """What a copy for a backup took.

    Attributes:
        longest_write_ms: Of the writes made meanwhile, 50 a second at most.
    """

    seconds: float
    longest_write_ms: float


def memory_of_engines() -> Memory:
    """Of all engines of this process, and of what builds a graph for them."""
    kept = whole = 0
    for pid in _engines():
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, size = line.partition(":")
                whole += int(size.split()[0]) * 1024 if name == "Pss" else 0
                kept += int(size.split()[0]) * 1024 if name == "Pss_Anon" else 0
    return Memory(kept, whole - kept)


def engines_used_s() -> float:
    """Seconds of processor time that the engines which run have used."""
    return used_s(_engines())


def disk_bytes(folder: Path) -> Mapping[str, int]:
    """What a store's files take on the disk, without the holes in them, by what they hold."""
    found: Counter[str] = Counter()
    for file in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            holds = next((_PARTS[part] for part in file.parts if part in _PARTS), "the rest")
            found[holds] += file.lstat().st_blocks * _BLOCK_BYTES
    return dict(found)


def _engines() -> list[int]:
    commands = {pid: Path(f"/proc/{pid}/cmdline") for pid in children(os.getpid())}
    found = []
    for pid, command in commands.items():
        with contextlib.suppress(OSError):
            if _ENGINES in command.read_bytes():
                found.append(pid)
    return found


class Peak:
    """The most memory that the engines took while `watch` ran."""

    def __init__(self) -> None:
        self.most = Memory(0, 0)

    async def watch(self) -> None:
        while True:
            now = await asyncio.to_thread(memory_of_engines)
            self.most = max(self.most, now, key=lambda each: each.all)
            await asyncio.sleep(_LOOK_EVERY_S)


async def opened_s(opening: AbstractAsyncContextManager[VectorStore], query: VectorQuery) -> float:
    """Seconds from opening a store that is closed to its first answer."""
    began_s = time.perf_counter()
    async with opening as store:
        await store.search(INDEX, query)
        return round(time.perf_counter() - began_s, 2)


async def copied(store: EdgeVectorStore, target: Path) -> Copied:
    """A copy of the store, as a backup makes it, while fields of a document are written again and again."""
    longest_ms = 0.0

    async def write() -> None:
        nonlocal longest_ms
        while True:
            began_s = time.perf_counter()
            await store.set_fields(INDEX, ["doc-0"], {"title": "as it was"})
            longest_ms = max(longest_ms, (time.perf_counter() - began_s) * 1e3)
            await asyncio.sleep(_WRITE_EVERY_S)

    try:
        began_s = time.perf_counter()
        async with beside(write()):
            async with store.copying(target):
                pass
            seconds = time.perf_counter() - began_s
    finally:
        await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
    return Copied(round(seconds, 2), round(longest_ms, 1))
