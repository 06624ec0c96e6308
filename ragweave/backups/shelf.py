"""The folder in which backups stand: which there are, which may go, and who works on them."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from ragweave.backups.erased import merged
from ragweave.backups.errors import BackupBusy, BackupDamaged, BackupError, NoSuchBackup
from ragweave.backups.manifest import MANIFEST, Manifest, is_name, time_of
from ragweave.copying import sync_file

_LOCK: Final = ".lock"
_ERASED: Final = "erased-tenants.json"
_GOING: Final = ".going"


class Shelf:
    """A folder a backup, named by the time it was begun; a file with the deletions of tenants; nothing else.

    What is not whole has a name that begins with a dot: `.<name>.partial` while it is made, `.<name>.going` while it is
    deleted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Those of all whole backups, the oldest first."""
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            found = [entry.name for entry in entries if is_name(entry.name) and entry.is_dir(follow_symlinks=False)]
            return sorted(name for name in found if (self.folder / name / MANIFEST).is_file())
        return []

    def manifest(self, name: str) -> Manifest:
        """What a backup says of itself; "latest" names the newest.

        Raises:
            NoSuchBackup: There is none of that name.
            BackupDamaged: It cannot be read.
        """
        names = self.names()
        if name == "latest" and names:
            name = names[-1]
        if name not in names:
            known = ", ".join(names) or "none"
            raise NoSuchBackup(f"no backup {name!r:.40} in {self.folder}; there are: {known}")
        return Manifest.load(self.folder / name)

    def newest(self) -> Manifest | None:
        """The newest that can be read."""
        for name in reversed(self.names()):
            with suppress(BackupDamaged):
                return self.manifest(name)
        return None

    def partial(self, name: str) -> Path:
        """Where a backup is while it is made."""
        return self.folder / f".{name}.partial"

    def publish(self, name: str) -> None:
        """A backup that is on disk becomes one of those that are whole."""
        self.partial(name).rename(self.folder / name)
        sync_file(self.folder)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Keeps others from making and deleting backups meanwhile, and clears what they left half-done.

        Raises:
            BackupBusy: Somebody else does so now.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupBusy(f"another process makes or deletes backups in {self.folder}") from None
            for left in (*self.folder.glob(".*.partial"), *self.folder.glob(f".*{_GOING}")):
                shutil.rmtree(left)
            yield
        finally:
            os.close(descriptor)

    def prune(self, *, daily: int, weekly: int) -> list[str]:
        """Deletes what need not be kept; returns their names. Within `working` only."""
        going = [name for name in self.names() if name not in kept(self.names(), daily=daily, weekly=weekly)]
        for name in going:
            moved = self.folder / f".{name}{_GOING}"
            (self.folder / name).rename(moved)
            shutil.rmtree(moved)
        return going

    def erased(self) -> dict[str, str]:
        """Tenants that were ever deleted, with when that was last asked for."""
        try:
            found: dict[str, str] = json.loads((self.folder / _ERASED).read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            raise BackupError(
                f"{self.folder / _ERASED} cannot be read: it says which tenants no restore may bring back"
            ) from None
        return found

    def note_erased(self, tenants: Mapping[str, str]) -> None:
        """Adds deletions of tenants, for good. Two at once lose nothing that is noted again."""
        known = self.erased()
        now = merged(known, tenants)
        if now == known:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.folder / f".{_ERASED}.{os.getpid()}"
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(now, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / _ERASED)
        sync_file(self.folder)


def kept(names: Sequence[str], *, daily: int, weekly: int) -> frozenset[str]:
    """Which of the backups stay: the last of each of the last days and weeks that have one, and the newest."""
    by_day = {time_of(name).date(): name for name in sorted(names)}
    by_week = {time_of(name).isocalendar()[:2]: name for name in sorted(names)}
    days = [by_day[day] for day in sorted(by_day)[-daily:]] if daily else []
    weeks = [by_week[week] for week in sorted(by_week)[-weekly:]] if weekly else []
    return frozenset((*days, *weeks, *sorted(names)[-1:]))
