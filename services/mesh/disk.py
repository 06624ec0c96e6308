"""Room on the disk: what grows is refused while little is left, and a disk that is full is told as such."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import Final

from services.mesh.errors import DiskFull

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_RETRY_S: Final = 10.0


def disk_full(what: str) -> DiskFull:
    """The error for a disk without room; `what` says what is kept there, such as "the search index"."""
    return DiskFull(f"the disk of {what} is full; nothing can be added until there is room", retry_after_s=_RETRY_S)


class Disk:
    """The file system that a folder is on.

    Some of what the mesh keeps is written to all the time: the store of jobs ends rather than lose what it promised.
    The search index's files have holes in them, which are filled as they are used; the process that finds no room for
    one is killed. So the mesh stops adding before the disk is full. Deletions go on: they take little, and make room.

    Args:
        what: What is kept there, as callers may hear it.
        reserve_bytes: Left free; 0 to add until the disk is full.
    """

    def __init__(self, folder: Path, what: str, *, reserve_bytes: int) -> None:
        self._folder = folder
        self._what = what
        self._reserve_bytes = reserve_bytes

    @property
    def free_bytes(self) -> float:
        """What a process without privileges may still write there, or where the folder would be made. Asks the kernel,
        which knows: 2 us. Infinite where the disk is read-only: nothing is kept there that could grow.
        """
        for place in (self._folder, *self._folder.parents):
            with suppress(FileNotFoundError):
                found = os.statvfs(place)
                return inf if found.f_flag & os.ST_RDONLY else found.f_bavail * found.f_frsize
        return inf

    def check(self, needed_bytes: int = 0) -> None:
        """Returns if there is room for so much beside the reserve.

        Raises:
            DiskFull: There is not.
        """
        if self._reserve_bytes > 0 and self.free_bytes < self._reserve_bytes + needed_bytes:
            raise disk_full(self._what)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raises DiskFull for a write inside the block that finds no room.

    Args:
        what: What is written, as callers may hear it.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise disk_full(what) from error
