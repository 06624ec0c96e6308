"""How long the content in a folder has rested: its modification time is when somebody last put or kept it.

Whoever keeps content and whoever forgets it hold a lock on the folder it is in (flock(2)), which ends with its process.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from services.jobs.blobs import is_hash

# How many hashes are told at a time.
_AT_ONCE: Final = 1_000


def keep(path: Path) -> bool:
    """Makes the content at `path` begin to rest anew; False where there is none."""
    try:
        with _locked(path.parent, fcntl.LOCK_SH):
            os.utime(path, ns=(now := time.time_ns(), now))  # the kernel's own is some milliseconds late
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def forget(path: Path, before: float) -> bool:
    """Unlinks the content at `path`, and what was made of it, where it has rested since then (seconds of the epoch)."""
    try:
        with _locked(path.parent, fcntl.LOCK_EX):
            if path.stat().st_mtime >= before:
                return False
            # Last what it was made of: cut off in between, the next one finds the rest.
            for file in (*path.parent.glob(f"{path.name}.*"), path):
                file.unlink(missing_ok=True)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def resting(folder: Path, before: float) -> Iterator[list[str]]:
    """Hashes of the content in the folders of `folder` that has rested since then, some at a time."""
    found: list[str] = []
    for parent in _entries(folder):
        for entry in _entries(parent):
            if is_hash(entry.name) and _rests(entry, before):
                found.append(entry.name)
            if len(found) == _AT_ONCE:
                yield found
                found = []
    if found:
        yield found


def _rests(entry: "os.DirEntry[str]", before: float) -> bool:
    with suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False).st_mtime < before
    return False


def _entries(folder: "Path | os.DirEntry[str]") -> list["os.DirEntry[str]"]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return list(entries)
    return []


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)
