"""The folder of the embedded index: its lock, and one folder an index with the manifest that names its live shard."""

import asyncio
import fcntl
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from services.mesh.errors import IndexLocked
from services.mesh.schemas import UnknownSchema
from services.retrieval.chunks import Distance, IndexId

_LOCK_WAIT_S: Final = 2.0
_LOCK_POLL_S: Final = 0.05
# What stat(2) counts in.
_BLOCK_BYTES: Final = 512
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index is, and which of its shard folders is the live one.

    Attributes:
        schema: Version of what it holds.
        generation: Counts the builds; names the shard's folder.
        built_points: Points in the search graph when it was built; 0 where there is none.
    """

    dimension: int
    distance: Distance
    schema: int
    generation: int = 0
    built_points: int = 0

    def next(self, built_points: int) -> "Manifest":
        return replace(self, generation=self.generation + 1, built_points=built_points)


class FolderLock:
    """Held for as long as a process, or one it started, has the folder open."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    async def take(cls, folder: Path) -> "FolderLock":
        """Locks the folder, giving a process that is just ending a moment.

        Raises:
            IndexLocked: Another process has it open.
        """
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        waited_s = 0.0
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waited_s >= _LOCK_WAIT_S:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                    os.close(descriptor)
                    raise IndexLocked(f"index folder {folder} is open in another process (pid {holder})") from None
                await asyncio.sleep(_LOCK_POLL_S)
                waited_s += _LOCK_POLL_S
            else:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
                return cls(descriptor)

    def release(self) -> None:
        os.close(self.descriptor)


class IndexFolder:
    """One index on disk: `manifest.json`, the live shard `g<generation>`, during a build the next and its journal."""

    def __init__(self, root: Path, index: IndexId) -> None:
        if not _NAME.fullmatch(index) or index.startswith("."):
            raise ValueError(f"no name of an index: {index!r:.80}")
        self._folder = root / index
        self._manifest = self._folder / "manifest.json"

    def shard(self, generation: int) -> Path:
        return self._folder / f"g{generation}"

    def journal(self, generation: int) -> Path:
        return self._folder / f"g{generation}.journal"

    def size_bytes(self, generation: int) -> int:
        """What a shard takes on the disk, without the holes in its files."""
        files = [each for each in self.shard(generation).rglob("*") if each.is_file()]
        return sum(each.stat().st_blocks for each in files) * _BLOCK_BYTES

    def load(self, known: int) -> Manifest | None:
        """The manifest; None where there is no index, or its creation or deletion was not completed.

        Args:
            known: The latest version that can be read.

        Raises:
            UnknownSchema: It is of a newer one.
        """
        try:
            content = json.loads(self._manifest.read_text())
        except FileNotFoundError:
            return None
        if content["schema"] > known:
            raise UnknownSchema(f"the index in {self._folder}", found=content["schema"], known=known)
        return Manifest(**{**content, "distance": Distance(content["distance"])})

    def store(self, manifest: Manifest) -> None:
        """Makes the manifest the one that counts, in one step, durably."""
        new = self._manifest.with_suffix(".new")
        with new.open("w") as file:
            json.dump(asdict(manifest), file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._manifest)
        _sync(self._folder)

    def forget(self) -> None:
        """The index is gone from here on, durably; its files are left to clear()."""
        self._manifest.unlink(missing_ok=True)
        if self._folder.exists():
            _sync(self._folder)

    def clear(self, live: Manifest | None) -> None:
        """Deletes whatever is not the live shard; without one, the whole folder."""
        if live is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        kept = {self._manifest, self.shard(live.generation)}
        for entry in self._folder.iterdir():
            if entry.is_dir() and entry not in kept:
                shutil.rmtree(entry, ignore_errors=True)
            elif entry not in kept:
                entry.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
