"""Copies of files as they are: holes stay holes, and what is copied is on disk when it matters."""

import os
from pathlib import Path
from typing import Final

_AT_A_TIME: Final = 2**22


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder; holes in files stay holes (a write-ahead log is 32 MiB of them). Links are left out."""
    target.mkdir(mode=0o700)
    for entry in os.scandir(source):
        if entry.is_dir(follow_symlinks=False):
            copy_tree(Path(entry.path), target / entry.name)
        elif entry.is_file(follow_symlinks=False):
            copy_file(Path(entry.path), target / entry.name)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file to a new one, which its owner alone may read. Raises OSError (ELOOP) where the source is a link."""
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _copy(read, written)
        finally:
            os.close(written)
    finally:
        os.close(read)


def _copy(read: int, written: int) -> None:
    size, at = os.fstat(read).st_size, 0
    os.truncate(written, size)
    while at < size:
        try:
            at = os.lseek(read, at, os.SEEK_DATA)
        except OSError:  # only a hole is left
            return
        end = min(os.lseek(read, at, os.SEEK_HOLE), size)
        os.lseek(written, at, os.SEEK_SET)
        while at < end:
            sent = os.sendfile(written, read, at, min(_AT_A_TIME, end - at))
            if not sent:  # it has been cut meanwhile
                return
            at += sent


def sync_file(path: Path) -> None:
    """Returns when the file, or the folder's own entries, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def seal(folder: Path) -> None:
    """Makes all of a folder its owner's alone; returns when it is on disk."""
    for parent, _, names in os.walk(folder):
        for name in names:
            os.chmod(Path(parent, name), 0o600)
            sync_file(Path(parent, name))
        os.chmod(parent, 0o700)
        sync_file(Path(parent))
