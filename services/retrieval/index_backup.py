"""Copying the index into a backup that somebody else makes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from enum import Enum, auto
from pathlib import Path
from typing import Final, Protocol

from services.mesh.errors import DeadlineExceeded, FailedPrecondition

# The folder of a backup that is being made, below that of all backups; what the index is called in it.
_UNFINISHED: Final = ".{name}.partial"
_PART: Final = "index"
_HELD_S: Final = 15.0


class IndexCopies(Protocol):
    """A store that is files of this machine."""

    def copying(self, target: Path) -> AbstractAsyncContextManager[None]:
        """Writes wait inside the block; after it, the new folder `target` holds the whole store as it was then."""
        ...


class Stage(Enum):
    """How far a copy is."""

    HELD = auto()
    COPIED = auto()


class IndexBackup:
    """Copies the index while it is written. Writes wait for whoever asked, but not for long.

    Args:
        store: None where the index is not in files of this machine.
        backups: The folder of all backups; whoever makes one shares it.
        held_s: How long writes wait at most.
    """

    def __init__(self, store: IndexCopies | None, backups: Path, *, held_s: float = _HELD_S) -> None:
        self._store = store
        self._backups = backups
        self._held_s = held_s

    async def copy(self, asked: AsyncIterator[str]) -> AsyncIterator[Stage]:
        """Tells when writes wait, which they do until `asked` has more, and when the copy is whole.

        Args:
            asked: The name of the backup, then whatever releases the writes.

        Raises:
            FailedPrecondition: The index is not in files of this machine, or the backup's folder is not there.
            DeadlineExceeded: The writes were not released in time; there is no copy.
        """
        if self._store is None:
            raise FailedPrecondition("the index is on a Qdrant server: its own snapshots are its backup")
        unfinished = self._backups / _UNFINISHED.format(name=await anext(asked))
        if not await asyncio.to_thread(unfinished.is_dir):
            raise FailedPrecondition(f"{unfinished} is not there: retrieval and system share RAGWEAVE_BACKUP_DIR")
        async with self._store.copying(unfinished / _PART):
            yield Stage.HELD
            try:
                async with asyncio.timeout(self._held_s):
                    await anext(asked)
            except (TimeoutError, StopAsyncIteration):
                raise DeadlineExceeded("the writes of the index were not released in time; there is no copy") from None
        yield Stage.COPIED
