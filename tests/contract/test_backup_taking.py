"""A backup of real stores that are written meanwhile is of one instant, and copies only what has changed."""

import asyncio
import os
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import redis as client
import redis.asyncio

from ragweave.backups.errors import BackupBusy, BackupError
from ragweave.backups.places import Places
from ragweave.backups.restoring import Restorer
from ragweave.backups.shelf import Shelf
from ragweave.backups.taking import Taker
from ragweave.backups.verifying import verify
from ragweave.local.processes import store_binary
from tests.backup_folders import add_content, back_up, delete_tenant, write_data


@asynccontextmanager
async def redis_in(folder: Path) -> AsyncIterator[Any]:
    """The embedded store over a folder, as the local mesh starts it."""
    socket = folder / "redis.sock"
    options = ["--appendonly", "yes", "--save", "", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
    command = [store_binary(), "--port", "0", "--unixsocket", str(socket), "--dir", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    store = redis.asyncio.Redis(unix_socket_path=str(socket))
    try:
        while True:
            with suppress(client.ConnectionError, client.exceptions.BusyLoadingError):
                await store.ping()
                break
            await asyncio.sleep(0.02)
        yield store
    finally:
        await store.aclose()
        process.terminate()
        process.wait()


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No power cut is tried here, and the disk is slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_data(tmp_path / "data")
    (tmp_path / "data" / "redis" / "appendonlydir" / "appendonly.aof.1.base.rdb").unlink()
    (tmp_path / "data" / "redis" / "appendonlydir" / "appendonly.aof.manifest").unlink()
    return tmp_path / "data"


@asynccontextmanager
async def no_index(name: str) -> AsyncIterator[None]:
    yield


def taker(shelf: Shelf, data: Path) -> Taker:
    return Taker(shelf, Places.read(data, {}), no_index)


def count(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM said").fetchone()[0])


def written(data: Path, stop: threading.Event) -> None:
    """Writes, each once the one before is done, to the registry, then to Redis, then to system's database."""
    paths = (data / "collections/registry.db", data / "system/system.db")
    with (
        client.Redis(unix_socket_path=str(data / "redis" / "redis.sock")) as store,
        closing(sqlite3.connect(paths[0], timeout=10)) as registry,
        closing(sqlite3.connect(paths[1], timeout=10)) as system,
    ):
        while not stop.is_set():
            with registry:
                registry.execute("INSERT INTO said VALUES ('more')")
            store.rpush("said", "more")
            with system:
                system.execute("INSERT INTO said VALUES ('more')")


async def test_no_part_of_a_backup_is_ahead_of_what_it_follows_from(data: Path, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "backups")
    async with redis_in(data / "redis") as store:
        for database in ("collections/registry.db", "system/system.db"):
            with closing(sqlite3.connect(data / database)) as connection:
                connection.execute("DELETE FROM said")
                connection.commit()
        stop = threading.Event()
        writing = asyncio.create_task(asyncio.to_thread(written, data, stop))
        await _grown(store, 20)
        made = await taker(shelf, data).take()
        await _grown(store, await store.llen("said") + 20)  # it goes on
        stop.set()
        await writing
    into = tmp_path / "into"
    Restorer(shelf, Places.read(into, {})).restore(made.name)
    async with redis_in(into / "redis") as restored:
        queued = await restored.llen("said")
    registered, audited = count(into / "collections/registry.db"), count(into / "system/system.db")
    assert 20 <= queued <= registered <= queued + 1
    assert audited <= queued <= audited + 1


async def _grown(store: Any, length: int) -> None:
    while await store.llen("said") < length:
        await asyncio.sleep(0.001)


async def test_a_backup_tells_how_far_each_collection_had_come_and_a_restore_goes_on_from_beyond(
    data: Path, tmp_path: Path
) -> None:
    shelf = Shelf(tmp_path / "backups")
    async with redis_in(data / "redis") as store:
        await store.set("ragweave:index:uid-1:revision", 41)
        made = await taker(shelf, data).take()
    (collection,) = made.collections
    assert (collection.collection, collection.index_revision, collection.chunks) == ("handbook", 41, 7)
    Restorer(shelf, Places.read(tmp_path / "into", {})).restore(made.name)
    async with redis_in(tmp_path / "into" / "redis") as restored:
        assert int(await restored.get("ragweave:index:uid-1:revision")) > 1_000_000


async def test_nothing_of_a_backup_stays_with_the_server(data: Path, tmp_path: Path) -> None:
    async with redis_in(data / "redis") as store:
        await store.set("secret", "of somebody")
        await taker(Shelf(tmp_path / "backups"), data).take()
        assert sorted(path.name for path in (data / "redis").iterdir()) == ["appendonlydir", "redis.sock"]


async def test_a_store_that_does_not_answer_fails_the_backup_and_leaves_nothing(data: Path, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "backups")
    with pytest.raises(BackupError, match="Redis does not answer"):
        await taker(shelf, data).take()
    assert shelf.names() == [] and not list(shelf.folder.glob(".2*"))
    for database in ("collections/registry.db", "system/system.db"):  # writers go on
        with closing(sqlite3.connect(data / database, timeout=0)) as connection:
            connection.execute("DELETE FROM said")


def test_what_has_not_changed_is_one_file_in_all_backups(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    old = add_content(data, "kept since")
    first = back_up(data, shelf)
    add_content(data, "new")
    (data / "index" / "uid-1" / "g0" / "segment").write_text("changed")
    second = back_up(data, shelf)
    here, there = shelf.folder / first.name, shelf.folder / second.name
    same = {p for p in first.files if (there / p).exists() and (there / p).samefile(here / p)}
    assert first.files.keys() - same == {"index/uid-1/g0/segment"}
    assert str(Path("blobs") / old.relative_to(data / "blobs")) in same
    assert second.copied_bytes < first.copied_bytes
    assert not (there / "blobs" / old.relative_to(data / "blobs")).samefile(old)
    for manifest in (first, second):
        verify(shelf.folder / manifest.name, manifest)
    with shelf.working():
        shelf.prune(daily=0, weekly=0)
    verify(there, second)


def test_what_is_forgotten_after_the_instant_is_in_the_backup(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    content = add_content(data, "purged meanwhile")

    def forget(doing: str) -> None:
        if doing == "copy the databases":
            content.unlink()
        if doing == "copy the index":
            add_content(data, "arrived meanwhile")

    manifest = asyncio.run(Taker(shelf, Places.read(data, {}), None, say=forget).take())
    held = [
        (shelf.folder / manifest.name / path).read_text() for path in manifest.files if path.startswith("blobs/acme")
    ]
    assert {"purged meanwhile", "arrived meanwhile"} <= set(held)


def test_links_in_the_data_folder_lead_nowhere(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    (data / "blobs" / "acme" / "link").symlink_to("/etc/hostname")
    (data / "blobs" / "other").symlink_to("/etc")
    (data / "index" / "uid-1" / "g0" / "link").symlink_to("/etc/hostname")
    assert not [path for path in back_up(data, shelf).files if "link" in path or "other" in path]


def test_a_backup_is_its_owners_alone(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    folder = shelf.folder / back_up(data, shelf).name
    modes = {path.stat().st_mode & 0o777 for path in (shelf.folder, folder, *folder.rglob("*"))}
    assert modes == {0o700, 0o600}


def test_a_backup_says_what_it_does_not_hold(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    elsewhere = {
        "RAGWEAVE_COLLECTIONS_DATABASE_URL": "postgresql://somewhere/registry",
        "RAGWEAVE_RETRIEVAL_STORE": "qdrant",
        "RAGWEAVE_REDIS_URL": "rediss://somewhere",
    }
    manifest = asyncio.run(Taker(shelf, Places.read(data, elsewhere), None).take())
    assert manifest.left_out.keys() == {"collections", "index", "redis"}
    assert {path.partition("/")[0] for path in manifest.files} == {"system", "blobs"}
    assert manifest.parts == {"system": "0004", "blobs": ""}


def test_deletions_of_tenants_go_with_the_backup_and_onto_the_shelf(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    delete_tenant(data, "gone")
    assert back_up(data, shelf).erased == shelf.erased() == {"gone": "2026-11-21T03:00:00.000000+00:00"}


def test_a_disk_without_room_refuses_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2**20}))
    with pytest.raises(BackupError, match="1 MiB are free"):
        back_up(data, shelf)
    assert shelf.names() == []


def test_a_second_backup_at_once_is_refused_and_one_that_is_there_by_now_is_the_answer(tmp_path: Path) -> None:
    data, shelf = tmp_path / "data", Shelf(tmp_path / "backups")
    write_data(data)
    with shelf.working(), pytest.raises(BackupBusy):
        back_up(data, shelf)
    made = back_up(data, shelf)
    asked = Taker(shelf, Places.read(data, {}), None)
    assert asyncio.run(asked.take(unless_after="")) == made
    assert asyncio.run(asked.take(unless_after=made.name)).name > made.name
