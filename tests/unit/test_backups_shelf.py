"""Which backups stay, and what is told of each."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ragweave.backups.errors import BackupBusy, BackupDamaged, NoSuchBackup
from ragweave.backups.manifest import MANIFEST, Entry, Manifest, is_name, name_at, time_of
from ragweave.backups.shelf import Shelf, kept

MONDAY = datetime(2026, 11, 2, 3, 15, tzinfo=UTC)


def made(shelf: Shelf, moment: datetime) -> str:
    name = name_at(moment)
    (shelf.folder / name).mkdir(parents=True)
    Manifest(name, moment.isoformat(), "0.1.0").store(shelf.folder / name)
    return name


def test_the_last_of_each_day_and_week_stays_and_the_newest_always() -> None:
    names = [name_at(MONDAY + timedelta(days=day, hours=hour)) for day in range(60) for hour in (0, 6)]
    stay = sorted(kept(names, daily=7, weekly=4))
    days = [time_of(name) for name in stay]
    assert len(stay) == 7 + 4 - 1 - 1  # the newest week's last day, and the Sunday before, are days that stay too
    assert all(moment.hour == 9 for moment in days)
    assert stay[-7:] == [name_at(MONDAY + timedelta(days=day, hours=6)) for day in range(53, 60)]
    assert all(moment.isoweekday() == 7 for moment in days[:-7])
    assert kept(names, daily=0, weekly=0) == {names[-1]}
    assert kept([], daily=7, weekly=4) == frozenset()


def test_pruning_deletes_what_need_not_stay(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "backups")
    names = [made(shelf, MONDAY + timedelta(hours=hour)) for hour in range(3)]
    with shelf.working():
        assert shelf.prune(daily=1, weekly=0) == names[:2]
    assert shelf.names() == names[2:]
    assert [path.name for path in shelf.folder.glob(".*")] == [".lock"]


def test_what_a_crash_left_half_made_or_half_deleted_is_cleared_and_never_listed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for name in (".20261102T031500Z.partial", ".20261102T031500Z.going", "20261102T031500Z"):
        (tmp_path / name).mkdir()
    assert shelf.names() == []
    with shelf.working():
        assert not list(tmp_path.glob(".2*"))


def test_one_process_at_a_time_works_on_backups(tmp_path: Path) -> None:
    with Shelf(tmp_path).working(), pytest.raises(BackupBusy), Shelf(tmp_path).working():
        pass
    with Shelf(tmp_path).working():
        pass


def test_a_backup_is_found_by_its_name_or_as_the_latest(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    with pytest.raises(NoSuchBackup, match="there are: none"):
        shelf.manifest("latest")
    first, second = made(shelf, MONDAY), made(shelf, MONDAY + timedelta(seconds=1))
    assert (shelf.manifest("latest").name, shelf.manifest(first).name) == (second, first)
    for name in ("../etc", "", ".", f"{first}/../{second}"):
        with pytest.raises(NoSuchBackup):
            shelf.manifest(name)


def test_a_manifest_reads_back_as_written_and_nothing_else_does(tmp_path: Path) -> None:
    written = Manifest("n", MONDAY.isoformat(), "0.1.0", files={"blobs/a": Entry(3, "ab", 7)}, erased={"acme": "t"})
    written.store(tmp_path)
    assert Manifest.load(tmp_path) == written
    content = (tmp_path / MANIFEST).read_text()
    for spoilt in (content.replace('"bytes": 3', '"bytes": 4'), content[:-9], "{}", "[]"):
        (tmp_path / MANIFEST).write_text(spoilt)
        with pytest.raises(BackupDamaged):
            Manifest.load(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../a", "blobs/../../a", "a//b", "./a", ""])
def test_a_manifest_names_no_file_outside_its_backup(tmp_path: Path, path: str) -> None:
    Manifest("n", MONDAY.isoformat(), "0.1.0", files={path: Entry(3, "ab")}).store(tmp_path)
    with pytest.raises(BackupDamaged):
        Manifest.load(tmp_path)


def test_a_manifest_of_a_later_format_is_refused_by_name(tmp_path: Path) -> None:
    Manifest("n", MONDAY.isoformat(), "9.0.0", format=2).store(tmp_path)
    with pytest.raises(BackupDamaged, match="format 2"):
        Manifest.load(tmp_path)


def test_deletions_of_tenants_are_kept_for_good_each_at_its_last_time(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "backups")
    shelf.note_erased({"acme": "2026-01", "beta": "2026-02"})
    shelf.note_erased({"acme": "2026-03", "beta": "2026-01"})
    shelf.note_erased({})
    assert shelf.erased() == {"acme": "2026-03", "beta": "2026-02"}


def test_names_are_times() -> None:
    assert name_at(MONDAY) == "20261102T031500Z" and time_of("20261102T031500Z") == MONDAY
    assert is_name("20261102T031500Z") and not is_name("20261102T031500Z.partial")
