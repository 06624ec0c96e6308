"""What a copy of the embedded store promises: it is the store at one instant, whatever is written meanwhile."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from services.mesh.errors import DeadlineExceeded, FailedPrecondition
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import EncodedChunk, IndexId, VectorQuery
from services.retrieval.index_backup import IndexBackup, Stage
from tests.retrieval_fakes import chunk, direction, encoded, vector

BUSY, QUIET = IndexId("uid-busy"), IndexId("uid-quiet")
QUERY = VectorQuery(vector(direction("question", 8)), None, limit=10)


def some(count: int, first: int = 0) -> list[EncodedChunk]:
    return [
        encoded(chunk(f"text {n}", document=f"d{n}", ordinal=0), direction(n, 8), scale=5)
        for n in range(first, first + count)
    ]


@asynccontextmanager
async def written(store: EdgeVectorStore, index: IndexId) -> AsyncIterator[None]:
    """Somebody writes to the index inside the block."""

    async def write() -> None:
        n = 10_000
        while True:
            await store.upsert(index, some(3, n))
            await store.delete_documents(index, [f"d{n}"])
            n += 3

    writing = asyncio.create_task(write())
    try:
        yield
    finally:
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing


async def test_a_copy_is_the_store_at_the_instant_in_which_writes_wait(tmp_path: Path) -> None:
    async with EdgeVectorStore.open(tmp_path / "index") as store:
        for index in (QUIET, BUSY):
            await store.ensure_index(index, 8)
            await store.upsert(index, some(500))
        async with written(store, BUSY):
            async with store.copying(tmp_path / "copy"):
                then = await store.count(BUSY)
                hits = (await store.search(QUIET, QUERY)).hits
            while await store.count(BUSY) == then:
                await asyncio.sleep(0)
    async with EdgeVectorStore.open(tmp_path / "copy") as copy:
        assert await copy.count(BUSY) == then
        assert await copy.count(QUIET) == 500
        assert (await copy.search(QUIET, QUERY)).hits == hits
    assert not list((tmp_path / "copy").rglob("*.journal"))


async def test_a_copy_has_what_is_made_meanwhile_and_not_what_is_dropped(tmp_path: Path) -> None:
    made = IndexId("uid-made")
    async with EdgeVectorStore.open(tmp_path / "index") as store:
        for index in (QUIET, BUSY):
            await store.ensure_index(index, 8)
            await store.upsert(index, some(5))
        copying = store.copying(tmp_path / "copy")
        async with _held_up(store, QUIET) as go_on:
            entered = asyncio.create_task(copying.__aenter__())
            while not (tmp_path / "copy").exists():
                await asyncio.sleep(0.001)
            await store.ensure_index(made, 8)
            await store.upsert(made, some(7))
            await store.drop(BUSY)
            go_on.set()
        await entered
        await copying.__aexit__(None, None, None)
    async with EdgeVectorStore.open(tmp_path / "copy") as copy:
        assert [await copy.count(index) for index in (QUIET, made, BUSY)] == [5, 7, 0]


async def test_an_index_made_anew_meanwhile_is_copied_as_it_is_now(tmp_path: Path) -> None:
    async with EdgeVectorStore.open(tmp_path / "index") as store:
        for index in (QUIET, BUSY):
            await store.ensure_index(index, 8)
            await store.upsert(index, some(5))
        await store.build(BUSY)
        copying = store.copying(tmp_path / "copy")
        async with _held_up(store, QUIET) as go_on:
            entered = asyncio.create_task(copying.__aenter__())
            while not (tmp_path / "copy").exists():
                await asyncio.sleep(0.001)
            await store.drop(BUSY)
            await store.ensure_index(BUSY, 8)
            await store.upsert(BUSY, some(3))
            go_on.set()
        await entered
        await copying.__aexit__(None, None, None)
    assert sorted(entry.name for entry in (tmp_path / "copy" / BUSY).iterdir()) == ["g0", "manifest.json"]
    async with EdgeVectorStore.open(tmp_path / "copy") as copy:
        assert await copy.count(BUSY) == 3
        assert (await copy.stats(BUSY)).indexed_chunks == 0


@asynccontextmanager
async def _held_up(store: EdgeVectorStore, index: IndexId) -> AsyncIterator[asyncio.Event]:
    """Writes of the index, and so its copy, wait until the event."""
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with store._indexes[index].writing:
            begun.set()
            await go_on.wait()

    holding = asyncio.create_task(hold())
    await begun.wait()
    yield go_on
    await holding


async def test_an_engine_that_dies_meanwhile_leaves_nothing_out(tmp_path: Path) -> None:
    async with EdgeVectorStore.open(tmp_path / "index") as store:
        for index in (BUSY, QUIET):
            await store.ensure_index(index, 8)
            await store.upsert(index, some(50))
        copying = store.copying(tmp_path / "copy")
        async with _held_up(store, QUIET) as go_on:  # the other one is copied, and written to since
            entered = asyncio.create_task(copying.__aenter__())
            while not (tmp_path / "copy" / BUSY).exists():
                await asyncio.sleep(0.001)
            await store.upsert(BUSY, some(10, 100))
            for pid in store.pids():
                os.kill(pid, signal.SIGKILL)
            await store.count(BUSY)  # which starts another: reads are repeated
            await store.upsert(BUSY, some(10, 200))
            go_on.set()
        await entered
        await copying.__aexit__(None, None, None)
    async with EdgeVectorStore.open(tmp_path / "copy") as copy:
        assert [await copy.count(index) for index in (BUSY, QUIET)] == [70, 50]


async def test_writes_that_nobody_releases_go_on_by_themselves(tmp_path: Path) -> None:
    async def silence() -> AsyncIterator[str]:
        yield "20261121T030000Z"
        await asyncio.Event().wait()

    (tmp_path / ".20261121T030000Z.partial").mkdir()
    async with EdgeVectorStore.open(tmp_path / "index") as store:
        await store.ensure_index(BUSY, 8)
        stages = IndexBackup(store, tmp_path, held_s=0.05).copy(silence())
        assert await anext(stages) is Stage.HELD
        with pytest.raises(DeadlineExceeded, match="not released"):
            await anext(stages)
        await store.upsert(BUSY, some(1))
        async with store.copying(tmp_path / "again"):
            pass


async def test_only_a_backup_that_is_being_made_is_copied_into(tmp_path: Path) -> None:
    async def named() -> AsyncIterator[str]:
        yield "20261121T030000Z"

    async with EdgeVectorStore.open(tmp_path / "index") as store:
        with pytest.raises(FailedPrecondition, match="RAGWEAVE_BACKUP_DIR"):
            await anext(IndexBackup(store, tmp_path).copy(named()))
    with pytest.raises(FailedPrecondition, match="Qdrant"):
        await anext(IndexBackup(None, tmp_path).copy(named()))
