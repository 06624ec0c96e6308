"""A restore either happens whole or leaves everything as it was; and it brings back nothing that was erased."""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragweave.backups.contents import sha256_of
from ragweave.backups.errors import BackupDamaged, BackupError
from ragweave.backups.manifest import Manifest
from ragweave.backups.places import Places
from ragweave.backups.restoring import Restored, Restorer
from ragweave.backups.shelf import Shelf
from ragweave.backups.swapping import NOTE, settle
from ragweave.backups.taking import Taker
from tests.backup_folders import add_content, back_up, delete_tenant, said, write_data

FIRST, SECOND = ["first"] * 5, ["second"] * 5
STEPS = (
    "read and check the backup",
    "copy it beside its place",
    "write to disk",
    "note what is to be swapped",
    *(f"swap {part}" for part in ("collections", "system", "index", "blobs", "redis")),
    "end the swap",
)


@pytest.fixture(autouse=True)
def _unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills leave what was written; a power cut is not tried here, and the disk is slow."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "backups")


@pytest.fixture
def data(tmp_path: Path, shelf: Shelf) -> Path:
    """A data folder that says "second", of which there is a backup that says "first"."""
    first = tmp_path / "first"
    write_data(first, "first")
    back_up(first, shelf)
    write_data(tmp_path / "data", "second")
    return tmp_path / "data"


def restore(shelf: Shelf, data: Path, say: Callable[[str], None] = lambda _: None) -> Restored:
    return Restorer(shelf, Places.read(data, {}), say=say).restore("latest")


def files_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_restore_puts_every_part_in_place_and_what_was_there_aside(data: Path, shelf: Shelf) -> None:
    before = files_of(data)
    done = restore(shelf, data)
    assert said(data) == FIRST
    aside = {path.name.partition(".")[0]: path for path in done.aside}
    assert {
        f"{part}/{path}": hash_ for part, folder in aside.items() for path, hash_ in files_of(folder).items()
    } == before
    assert not (data / NOTE).exists()
    assert all(path.stat().st_mode & 0o077 == 0 for path in (data / "redis").rglob("*"))


def test_a_restore_into_an_empty_place_gives_every_file_of_the_backup(tmp_path: Path, data: Path, shelf: Shelf) -> None:
    into = tmp_path / "empty"
    restore(shelf, into)
    wanted = {path: entry.sha256 for path, entry in shelf.manifest("latest").files.items()}
    found = files_of(into)
    assert {path: found[path] for path in wanted if not path.startswith("redis/")} == {
        path: hash_ for path, hash_ in wanted.items() if not path.startswith("redis/")
    }
    wal = into / "index" / "uid-1" / "g0" / "wal"
    assert wal.stat().st_size == 2**20 and wal.stat().st_blocks == 0


def test_the_steps_that_the_next_test_kills_at_are_those_there_are(data: Path, shelf: Shelf) -> None:
    told: list[str] = []
    restore(shelf, data, told.append)
    assert tuple(told) == STEPS


@pytest.mark.parametrize("step", STEPS)
def test_a_restore_killed_at_any_step_leaves_the_old_data(data: Path, shelf: Shelf, step: str) -> None:
    before = files_of(data)

    def kill(doing: str) -> None:
        if doing == step:
            os.kill(os.getpid(), signal.SIGKILL)

    assert _in_a_process(lambda: restore(shelf, data, kill)) == -signal.SIGKILL
    settle(data)
    left = {path: hash_ for path, hash_ in files_of(data).items() if not path.startswith(".")}
    assert left == before and said(data) == SECOND
    restore(shelf, data)
    assert said(data) == FIRST
    assert not list(data.glob(".*.restored"))


@pytest.mark.parametrize("renames", range(11))
def test_a_swap_killed_between_any_two_renames_is_taken_back_even_by_a_settling_that_is_killed_too(
    data: Path, shelf: Shelf, renames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(data)
    with _killed_after(renames, monkeypatch):
        assert _in_a_process(lambda: restore(shelf, data)) == -signal.SIGKILL
    for more in range(3):
        with _killed_after(more, monkeypatch):
            _in_a_process(lambda: settle(data))
    settle(data)
    assert {path: hash_ for path, hash_ in files_of(data).items() if not path.startswith(".")} == before


class _killed_after:
    """Processes of this block end, as if killed, before the rename after so many."""

    def __init__(self, renames: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._left = renames
        self._patch = monkeypatch
        self._real = Path.rename

    def __enter__(self) -> None:
        def rename(path: Path, target: Path) -> Path:
            if path.name.startswith(f".{NOTE}"):  # the note of the swap comes before
                return self._real(path, target)
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
            return self._real(path, target)

        self._patch.setattr(Path, "rename", rename)

    def __exit__(self, *_: object) -> None:
        self._patch.setattr(Path, "rename", self._real)


def _in_a_process(work: Callable[[], object]) -> int:
    """How a process ended that did nothing but this work: its status, or less a signal's number."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_swap_that_fails_is_taken_back_at_once(data: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(data)
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path == data / "blobs":
            raise OSError("busy")
        return real(path, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="busy"):
        patch.setattr(Path, "rename", rename)
        restore(shelf, data)
    assert files_of(data) == before


def _spoil_content(folder: Path) -> None:
    path = next(each for each in (folder / "blobs" / "acme").rglob("*") if each.is_file())
    path.write_bytes(b"X" * path.stat().st_size)


def _lose(folder: Path) -> None:
    next((folder / "redis").rglob("*.rdb")).unlink()


def _add(folder: Path) -> None:
    (folder / "index" / "more").touch()


def _link(folder: Path) -> None:
    path = folder / "index" / "uid-1" / "g0" / "segment"
    path.rename(folder.parent / "moved")
    path.symlink_to(folder.parent / "moved")


def _link_folder(folder: Path) -> None:
    (folder / "index" / "more").symlink_to("/etc")


@pytest.mark.parametrize("spoil", [_spoil_content, _lose, _add, _link, _link_folder])
def test_a_backup_that_is_not_what_was_written_is_not_restored(
    data: Path, shelf: Shelf, spoil: Callable[[Path], None]
) -> None:
    spoil(shelf.folder / shelf.names()[-1])
    before = files_of(data)
    with pytest.raises(BackupDamaged):
        restore(shelf, data)
    assert files_of(data) == before


def test_a_damaged_database_is_found_though_its_checksum_holds(data: Path, shelf: Shelf) -> None:
    folder = shelf.folder / shelf.names()[-1]
    path = folder / "system" / "system.db"
    content = bytearray(path.read_bytes())
    content[4096 + 100 :] = b"\xff" * (len(content) - 4196)
    path.write_bytes(bytes(content))
    files = Manifest.load(folder).files
    entry = replace(files["system/system.db"], sha256=sha256_of(path))
    _rewrite(folder, files={**files, "system/system.db": entry})
    with pytest.raises(BackupDamaged, match="SQLite"):
        restore(shelf, data)


def _rewrite(folder: Path, **changes: Any) -> None:
    replace(Manifest.load(folder), **changes).store(folder)


def test_what_a_newer_version_made_is_refused_by_its_version(data: Path, shelf: Shelf) -> None:
    _rewrite(shelf.folder / shelf.names()[-1], version="99.0.0")
    with pytest.raises(BackupError, match=r"99\.0\.0"):
        restore(shelf, data)


def test_a_part_that_is_kept_elsewhere_here_is_refused_by_name(data: Path, shelf: Shelf) -> None:
    places = Places.read(data, {"RAGWEAVE_RETRIEVAL_STORE": "qdrant"})
    with pytest.raises(BackupError, match="index, which is kept elsewhere"):
        Restorer(shelf, places).restore("latest")


def tenants_of(data: Path) -> Iterator[tuple[str, str, str]]:
    with closing(sqlite3.connect(data / "system" / "system.db")) as connection:
        yield from connection.execute("SELECT tenant, state, delete_time FROM tenants ORDER BY tenant")


def test_a_tenant_deleted_since_is_erased_again_wherever_that_is_known_from(data: Path, shelf: Shelf) -> None:
    delete_tenant(data, "known-here", "2026-11-21 03:00:00.250000")
    shelf.note_erased({"known-there": "2026-11-22T00:00:00.000000+00:00"})
    done = restore(shelf, data)
    assert done.erased == ("known-here", "known-there")
    assert list(tenants_of(data)) == [
        ("known-here", "DELETING", "2026-11-21 03:00:00.250000"),
        ("known-there", "DELETING", "2026-11-22 00:00:00.000000"),
    ]


def test_a_tenant_that_was_deleted_and_let_in_again_before_the_backup_stays(tmp_path: Path, shelf: Shelf) -> None:
    data = tmp_path / "data"
    write_data(data)
    shelf.note_erased({"back": "2026-11-20T00:00:00.000000+00:00"})
    delete_tenant(data, "gone")
    back_up(data, shelf)
    assert restore(shelf, data).erased == ()
    assert [tenant for tenant, *_ in tenants_of(data)] == ["gone"]


def test_a_restore_says_which_tenants_it_cannot_erase_again(data: Path, shelf: Shelf, tmp_path: Path) -> None:
    elsewhere = Places.read(data, {"RAGWEAVE_SYSTEM_DATABASE_URL": "postgresql://db/system"})
    other = Shelf(tmp_path / "other")
    asyncio.run(Taker(other, elsewhere, None).take())
    other.note_erased({"acme": "2026-11-22T00:00:00.000000+00:00"})
    assert Restorer(other, elsewhere).restore("latest").unerased == ("acme",)


def test_answers_of_before_can_not_be_taken_for_those_of_what_was_restored(data: Path, shelf: Shelf) -> None:
    restore(shelf, data)
    first = (data / "index" / "era").read_text()
    restore(shelf, data)
    assert first and (data / "index" / "era").read_text() not in ("", first)
    log = data / "redis" / "appendonlydir"
    assert "INCRBY" in (log / "appendonly.aof.1.incr.aof").read_text()
    assert "ragweave:index:uid-1:revision" in (log / "appendonly.aof.1.incr.aof").read_text()


def test_content_begins_to_rest_anew_when_it_is_restored(data: Path, shelf: Shelf) -> None:
    path = add_content(data, "old")
    os.utime(path, (0, 0))
    back_up(data, shelf)
    restore(shelf, data)
    assert path.stat().st_mtime > 10**9


def test_a_backup_without_a_part_that_is_kept_here_is_refused_by_name(data: Path, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    elsewhere = Places.read(data, {"RAGWEAVE_RETRIEVAL_STORE": "qdrant"})
    asyncio.run(Taker(other, elsewhere, None).take())
    with pytest.raises(BackupError, match="nothing of index, which is kept here"):
        restore(other, data)
