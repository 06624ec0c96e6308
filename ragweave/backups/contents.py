"""The files of a backup: stored bytes, which are copied once and linked ever after, and the list of all files."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ragweave.backups.manifest import MANIFEST, Entry
from ragweave.backups.places import BLOBS
from ragweave.copying import copy_file

_UPLOADS: Final = ".uploads"
_CONTENT: Final = re.compile(r"[0-9a-f]{64}")


class StoredBytes:
    """Originals and extracted texts, which are written once under a name that tells what they are, and never changed.

    `copy` before the instant of a backup and again after it has all that was needed at the instant, whatever is
    forgotten meanwhile: what was there before is in the first copy, and what came since rests for an hour at least.

    Args:
        source: Their folder.
        target: A new folder of the backup.
        former: The folder of the backup before; None where this is the first.
        known: What that one says of its files.
    """

    def __init__(self, source: Path, target: Path, former: Path | None, known: Mapping[str, Entry]) -> None:
        self._source = source
        self._target = target
        self._former = former
        self._known = known

    def new_bytes(self) -> int:
        """What the next `copy` has to read."""
        found = 0
        for path in self._paths():
            with suppress(FileNotFoundError):
                status = (self._source / path).stat()
                found += 0 if self._same(path, status) else status.st_size
        return found

    def copy(self) -> None:
        """Copies, or links, what has not been."""
        self._target.mkdir(mode=0o700, exist_ok=True)
        for path in self._paths():
            with suppress(FileNotFoundError, FileExistsError, NotADirectoryError):  # forgotten, or copied, meanwhile
                self._copy(path)

    def copy_uploads(self) -> None:
        """Copies what has come so far of uploads that have not ended."""
        (self._target / _UPLOADS).mkdir(mode=0o700)
        for path in _files_of(self._source / _UPLOADS):
            with suppress(FileNotFoundError):
                copy_file(path, self._target / _UPLOADS / path.name)

    def _copy(self, path: str) -> None:
        target = self._target / path
        if target.exists():
            return
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = (self._source / path).stat()
        if self._former and self._same(path, status):
            os.link(self._former / BLOBS / path, target, follow_symlinks=False)
            return
        copy_file(self._source / path, target)
        os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))

    def _same(self, path: str, status: os.stat_result) -> bool:
        """Whether the backup before has it: content by its name, the rest by when it was written."""
        entry = self._known.get(f"{BLOBS}/{path}")
        if entry is None or entry.bytes != status.st_size:
            return False
        return _CONTENT.fullmatch(path.rpartition("/")[2]) is not None or entry.modified_ns == status.st_mtime_ns

    def _paths(self) -> Iterator[str]:
        """Below the folder; without what is on its way in or out."""
        for home in _entries(self._source):
            if home.is_file(follow_symlinks=False):
                yield home.name
            elif home.is_dir(follow_symlinks=False) and not home.name.startswith("."):
                for parent, _, names in os.walk(home.path):
                    folder = Path(parent).relative_to(self._source)
                    yield from (str(folder / name) for name in names if not Path(parent, name).is_symlink())


def listed(folder: Path, former: Path | None, known: Mapping[str, Entry]) -> tuple[dict[str, Entry], int]:
    """Every file of a backup that is being made, and the bytes that only this backup has.

    What is the same in the backup before becomes one file with that.
    """
    files: dict[str, Entry] = {}
    new_bytes = 0
    for path in files_below(folder):
        status = (folder / path).stat()
        entry, before = known.get(path), former / path if former else None
        if entry and before and _is_one_file(status, before):
            files[path] = entry
            continue
        files[path] = Entry(status.st_size, sha256_of(folder / path), status.st_mtime_ns)
        if entry and before and entry.sha256 == files[path].sha256 and before.is_file():
            part = folder / f"{path}.linked"
            os.link(before, part, follow_symlinks=False)
            part.rename(folder / path)
        else:
            new_bytes += status.st_blocks * 512
    return files, new_bytes


def files_below(folder: Path) -> Iterator[str]:
    """Paths of all files, and links, below a backup's folder, but its manifest."""
    for parent, folders, names in os.walk(folder):
        below = Path(parent).relative_to(folder)
        links = [name for name in folders if Path(parent, name).is_symlink()]
        yield from (path for name in (*names, *links) if (path := str(below / name)) != MANIFEST)


def sha256_of(path: Path) -> str:
    """Lower-case hex."""
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def size_on_disk(folder: Path) -> int:
    """Bytes that the files below a folder take."""
    found = 0
    for path in files_below(folder):
        with suppress(FileNotFoundError):
            found += (folder / path).lstat().st_blocks * 512
    return found


def _is_one_file(status: os.stat_result, other: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(status, other.stat())
    return False


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return list(entries)
    return []


def _files_of(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if entry.is_file(follow_symlinks=False)]
