"""A disk of a few megabytes, to be filled: a tmpfs, where this process may mount one."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 2**20


class NoMount(Exception):
    """This process may not mount; says what the system said."""


class SmallDisk:
    """A disk mounted at `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Leaves so much room and no more, whatever was taken before."""
        with self._filler.open("ab") as filler:
            while (more := self.free_bytes - leave_bytes) > 0:
                with suppress(OSError):  # others took some meanwhile
                    os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), more)

    def free(self) -> None:
        """Gives back what `fill` took."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[SmallDisk]:
    """The disk inside the block; then it is gone with all that is on it.

    Raises:
        NoMount: It takes root, and a kernel that lets it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    said = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", folder], capture_output=True, text=True
    )
    if said.returncode:
        raise NoMount(said.stderr.strip())
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
