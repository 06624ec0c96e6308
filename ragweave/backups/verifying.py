"""Whether a backup is what was written."""

import stat
from collections.abc import Callable
from pathlib import Path

from ragweave.backups.contents import files_below, sha256_of
from ragweave.backups.errors import BackupDamaged
from ragweave.backups.manifest import Manifest
from ragweave.backups.places import DATABASES
from ragweave.backups.sqlite import check_database


def verify(folder: Path, manifest: Manifest, *, read: Callable[[int], None] = lambda _: None) -> None:
    """Reads all of a backup.

    Args:
        read: Is told the bytes that were read, one file after the other.

    Raises:
        BackupDamaged: A file is missing, is not what was written, or does not belong there.
    """
    found = set(files_below(folder))
    if strange := sorted(found - manifest.files.keys()):
        raise BackupDamaged(f"{manifest.name}: {strange[0]} does not belong there (and {len(strange) - 1} more)")
    for path, entry in manifest.files.items():
        if path not in found:
            raise BackupDamaged(f"{manifest.name}: {path} is missing")
        status = (folder / path).lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.bytes:
            raise BackupDamaged(f"{manifest.name}: {path} is not the file that was written")
        if sha256_of(folder / path) != entry.sha256:
            raise BackupDamaged(f"{manifest.name}: {path} is not what was written")
        read(entry.bytes)
    for part, name in DATABASES.items():
        if f"{part}/{name}" in manifest.files:
            check_database(folder / part / name)
