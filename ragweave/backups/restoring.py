"""Putting a backup in the place of what is there, in steps of which each can be the last.

Everything is first copied beside its place, where nothing looks. Then a note of what is to be swapped is written, the
parts are swapped by renaming, and the note is deleted: from that moment on the restore has happened, before it has not.
`settle`, which every start of the mesh calls, takes back a swap whose note it finds.
"""

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ragweave.backups import redis
from ragweave.backups.erased import DELETED_TENANTS, erase_again, erased_since, erased_tenants, merged
from ragweave.backups.errors import BackupError
from ragweave.backups.manifest import Manifest
from ragweave.backups.places import DATABASES, INDEX, REDIS, REGISTRY, SYSTEM, Places
from ragweave.backups.shelf import Shelf
from ragweave.backups.sqlite import rows_of
from ragweave.backups.swapping import Swap, clear, forget_note, note, settle
from ragweave.backups.verifying import verify
from ragweave.copying import copy_file, seal

ERA: Final = "era"
# Added to every index's revision, so that none is counted twice: more than an index is written to between two backups.
_REVISIONS: Final = 1_000_000
_SPARE_BYTES: Final = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    Attributes:
        aside: Where what was there before is now.
        erased: Tenants of the backup that were deleted since: the mesh erases them when it starts.
        unerased: Such tenants where system's database is not part of the backup: they must be deleted again.
    """

    aside: tuple[Path, ...]
    erased: tuple[str, ...]
    unerased: tuple[str, ...]


def _nothing(_: object) -> None:
    """Is told and does nothing."""


class Restorer:
    """Restores backups of a shelf into places that nobody uses meanwhile.

    Args:
        say: Is told what is being done, before it is.
        read: Is told the bytes of each file that has been checked.
    """

    def __init__(
        self,
        shelf: Shelf,
        places: Places,
        *,
        say: Callable[[str], None] = _nothing,
        read: Callable[[int], None] = _nothing,
    ) -> None:
        self._shelf = shelf
        self._places = places
        self._say = say
        self._read = read

    def restore(self, name: str) -> Restored:
        """Puts a backup in place; what was there is kept beside it.

        Raises:
            NoSuchBackup: There is none of that name.
            BackupDamaged: It is not what was written; nothing was changed.
            BackupError: It does not fit here; nothing was changed.
        """
        settle(self._places.data)
        manifest = self._shelf.manifest(name)
        folder = self._shelf.folder / manifest.name
        self._check_fits(manifest)
        self._say("read and check the backup")
        verify(folder, manifest, read=self._read)
        swaps = self._swaps(manifest)
        self._say("copy it beside its place")
        for each in swaps:
            clear(each.new)
        try:
            for each in swaps:
                _put(folder / each.part, each.new)
            erased, unerased = self._erase(manifest, swaps)
            self._mark(swaps)
            self._say("write to disk")
            for each in swaps:
                seal(each.new)
        except BaseException:
            for each in swaps:
                clear(each.new)
            raise
        self._say("note what is to be swapped")
        note(self._places.data, swaps)
        try:
            for each in swaps:
                self._say(f"swap {each.part}")
                each.take()
        except OSError:
            settle(self._places.data)
            raise
        self._say("end the swap")
        forget_note(self._places.data)
        aside = tuple(each.old for each in swaps if each.old.exists())
        return Restored(aside, tuple(sorted(erased)), tuple(sorted(unerased)))

    def _check_fits(self, manifest: Manifest) -> None:
        if _numbers(manifest.version) > _numbers(version("ragweave")):
            raise BackupError(
                f"{manifest.name} was made by Ragweave {manifest.version}, this is {version('ragweave')}: restore it "
                "with that version, or a newer one"
            )
        parts = {path.partition("/")[0] for path in manifest.files}
        if strange := parts - self._places.parts.keys():
            raise BackupError(f"{manifest.name} holds {', '.join(sorted(strange))}, which is kept elsewhere here")
        others = [part for part, path in self._places.parts.items() if part not in manifest.parts and path.exists()]
        if others:
            raise BackupError(f"{manifest.name} has nothing of {', '.join(sorted(others))}, which is kept here")
        self._places.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        free = shutil.disk_usage(self._places.data).free
        needed = manifest.disk_bytes + _SPARE_BYTES
        if free < needed:
            raise BackupError(
                f"{manifest.name} needs {needed / 2**20:.0f} MiB in {self._places.data}, where {free / 2**20:.0f} MiB "
                "are free"
            )

    def _swaps(self, manifest: Manifest) -> list[Swap]:
        """Every part that the backup has, those without a file included: what is there of them goes aside too."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        parts = [part for part in self._places.parts if part in manifest.parts]
        return [Swap.of(part, self._places.parts[part], stamp) for part in parts]

    def _erase(self, manifest: Manifest, swaps: list[Swap]) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Has tenants that were deleted since be deleted again: those to be erased, and those that cannot be."""
        live = self._places.database(SYSTEM) if SYSTEM in self._places.parts else None
        rows = rows_of(live, DELETED_TENANTS) if live and live.exists() else []
        if rows is None:
            self._say(f"go by {self._shelf.folder} for which tenants were deleted: {live} cannot be read")
        here = erased_tenants(rows or [])
        self._shelf.note_erased(here)
        since = erased_since(merged(self._shelf.erased(), here), manifest.erased)
        if not since:
            return {}, {}
        databases = [each.new / DATABASES[SYSTEM] for each in swaps if each.part == SYSTEM]
        if not databases or not databases[0].exists():
            return {}, since
        erase_again(databases[0], since)
        return since, {}

    def _mark(self, swaps: list[Swap]) -> None:
        """Nothing that was made of what is replaced can be taken for something made of what is restored."""
        new = {each.part: each.new for each in swaps}
        if INDEX in new:
            (new[INDEX] / ERA).write_text(uuid.uuid4().hex)
        if REDIS in new and REGISTRY in new and (new[REDIS] / redis.FOLDER).exists():
            uids = rows_of(new[REGISTRY] / DATABASES[REGISTRY], "SELECT uid FROM collections") or []
            redis.raise_revisions(new[REDIS], [uid for (uid,) in uids], _REVISIONS)


def _put(source: Path, target: Path) -> None:
    """Copies a part; one that has no files is an empty folder."""
    target.mkdir(mode=0o700, parents=True)
    if not source.exists():
        return
    for parent, folders, names in os.walk(source):
        into = target / Path(parent).relative_to(source)
        for name in folders:
            (into / name).mkdir(mode=0o700)
        for name in names:
            copy_file(Path(parent, name), into / name)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(each) for each in release.split(".") if each.isdecimal())
