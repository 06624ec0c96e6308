"""A full disk: what does not fit is refused clearly, what is there can be read, and all goes on once there is room."""

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from services.jobs.adapters.folder_blobs import FolderBlobStore
from services.jobs.extraction import ExtractedText
from services.mesh.breakers import Breaker
from services.mesh.disk import Disk
from services.mesh.errors import DependencyUnavailable, DiskFull
from services.mesh.redis import answering, open_redis
from services.mesh.sql import Mode, OpenDatabase, Schema, sqlite_url
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import EncodedChunk, IndexId, VectorQuery
from tests.jobs_store import Store
from tests.retrieval_fakes import chunk, direction, encoded, vector
from tests.small_disk import MIB, NoMount, SmallDisk, small_disk

INDEX = IndexId("uid-1")
QUERY = VectorQuery(vector(direction("question", 8)), None, limit=5)


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    try:
        with small_disk(tmp_path / "disk", getattr(request, "param", 8 * MIB)) as mounted:
            yield mounted
    except NoMount as refused:
        pytest.skip(f"a small disk cannot be mounted here: {refused}")


async def pieces(*content: bytes) -> AsyncIterator[bytes]:
    for piece in content:
        yield piece


@pytest.mark.parametrize("size", [4000, 300_000, 3 * MIB])
async def test_an_original_that_finds_no_room_leaves_nothing_behind(disk: SmallDisk, size: int) -> None:
    content = os.urandom(size)
    async with FolderBlobStore.open_folder(disk.folder / "blobs") as store:
        kept = await store.put("acme", pieces(b"kept"))
        disk.fill()
        before = set(disk.folder.rglob("*"))
        with pytest.raises(DiskFull, match="originals and texts"):
            await store.put("acme", pieces(content[: size // 2], content[size // 2 :]))
        with pytest.raises(DiskFull):
            await store.put_text("acme", kept.content_hash, "v", ExtractedText("x" * 300_000, "text/plain"))
        assert not [each for each in set(disk.folder.rglob("*")) - before if each.is_file()]
        assert await store.read("acme", kept.content_hash) == b"kept"
        disk.free()
        blob = await store.put("acme", pieces(content))
        assert await store.read("acme", blob.content_hash) == content


async def test_an_upload_that_finds_no_room_goes_on_from_where_it_was(disk: SmallDisk) -> None:
    content = os.urandom(3 * MIB)
    async with FolderBlobStore.open_folder(disk.folder / "blobs") as store:
        disk.fill(leave_bytes=2 * MIB)
        with pytest.raises(DiskFull):
            await store.put_upload("acme", "u", 0, pieces(*(content[at : at + MIB] for at in range(0, 3 * MIB, MIB))))
        disk.free()
        received = await store.received("acme", "u")
        assert MIB <= received <= 2 * MIB
        blob = await store.put_upload("acme", "u", received, pieces(content[received:]))
        assert await store.read("acme", blob.content_hash) == content


async def test_the_registry_s_database_refuses_what_does_not_fit_and_loses_nothing(
    disk: SmallDisk, tmp_path: Path
) -> None:
    steps = tmp_path / "steps"
    steps.mkdir()
    (steps / "r0001_shelf.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '0001', None\n"
        "def upgrade():\n    op.create_table('shelf', sa.Column('book', sa.Text, primary_key=True))\n"
    )
    schema = Schema("the library", steps, version_table="library_version")
    async with OpenDatabase.open(sqlite_url(disk.folder / "shelf.db"), schema) as database:

        async def shelved(book: str) -> None:
            await database.write(
                lambda connection: connection.execute(text("INSERT INTO shelf VALUES (:book)"), {"book": book})
            )

        async def books() -> int:
            (row,) = await database.run(
                lambda connection: connection.execute(text("SELECT count(*) FROM shelf")).all(), Mode.ONE_READ
            )
            return int(row[0])

        await shelved("kept")
        disk.fill(leave_bytes=64 * 1024)
        kept = 1
        with pytest.raises(DiskFull, match="the library"):
            for number in range(1000):
                await shelved(f"{number}" + "x" * 10_000)
                kept += 1
        assert await books() == kept
        disk.free()
        await shelved("after")
        assert await books() == kept + 1
    with sqlite3.connect(disk.folder / "shelf.db") as reopened:
        assert reopened.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_disk_that_is_read_only_holds_nothing_up(disk: SmallDisk) -> None:
    """As the root of a container is, of a service that keeps everything elsewhere."""
    disk.fill()
    kept = Disk(disk.folder / "data", "data", reserve_bytes=1)
    with pytest.raises(DiskFull):
        kept.check()
    subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
    kept.check()


def some(count: int, first: int = 0) -> list[EncodedChunk]:
    return [
        encoded(chunk(f"text {n}", document=f"d{n % 50}", ordinal=n), direction(n, 8), scale=5)
        for n in range(first, first + count)
    ]


@pytest.mark.parametrize("disk", [256 * MIB], indirect=True)
async def test_the_index_takes_nothing_more_before_its_engine_would_die_of_it(disk: SmallDisk) -> None:
    async with EdgeVectorStore.open(disk.folder / "index", reserve_bytes=64 * MIB) as store:
        await store.ensure_index(INDEX, 8)
        await store.upsert(INDEX, some(200))
        pids = store.pids()
        disk.fill(leave_bytes=32 * MIB)
        with pytest.raises(DiskFull, match="the search index"):
            await store.upsert(INDEX, some(64, first=200))
        with pytest.raises(DiskFull):
            await store.ensure_index(IndexId("uid-2"), 8)
        disk.fill()  # somebody else takes the rest
        assert len((await store.search(INDEX, QUERY)).hits) == 5
        disk.free()
        disk.fill(leave_bytes=32 * MIB)
        await store.delete_documents(INDEX, ["d7"])  # makes room, so it goes on
        await store.set_fields(INDEX, ["d8"], {"title": "T"})
        disk.free()
        await store.upsert(INDEX, some(64, first=200))
        assert await store.count(INDEX) == 200 - 4 + 64
        assert store.pids() == pids


async def test_the_store_of_jobs_ends_rather_than_promise_and_has_all_it_promised_when_there_is_room(
    disk: SmallDisk,
) -> None:
    store = Store(disk.folder)
    store.start()
    try:
        async with open_redis(store.url, connections=1) as client:
            promised = 0
            disk.fill(leave_bytes=64 * 1024)
            with pytest.raises(DependencyUnavailable):
                while promised < 1000:
                    async with answering("the store", Breaker("store"), timeout_s=10):
                        await client.set(f"key {promised}", b"x" * 1000)
                    promised += 1
            disk.free()
            store.kill()
            store.start()  # as its supervisor does
            assert promised > 10
            assert await client.exists(*(f"key {number}" for number in range(promised))) == promised
            await client.set("after", b"x")
    finally:
        store.kill()


async def test_a_disk_that_stalls_holds_up_the_write_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every sync waits for the event loop to say so: were one made by the loop itself, this would never end."""
    asked, goes_on = threading.Semaphore(0), threading.Event()
    sync = os.fsync

    def stalling(file: int) -> None:
        asked.release()
        goes_on.wait()
        sync(file)

    async with (
        FolderBlobStore.open_folder(tmp_path / "blobs") as blobs,
        EdgeVectorStore.open(tmp_path / "index") as index,
    ):
        monkeypatch.setattr(os, "fsync", stalling)
        writes = [
            asyncio.create_task(blobs.put("acme", pieces(b"content"))),
            asyncio.create_task(blobs.put_text("acme", "0" * 64, "v", ExtractedText("x", "text/plain"))),
            asyncio.create_task(index.ensure_index(INDEX, 8)),
        ]
        for _ in writes:
            await asyncio.to_thread(asked.acquire)
        assert not any(each.done() for each in writes)
        goes_on.set()
        await asyncio.gather(*writes)
