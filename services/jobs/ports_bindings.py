"""What following directories needs of the world: which collections want it, and what directories look like."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from services.jobs.job import DirectoryImport


@dataclass(frozen=True, slots=True)
class Binding:
    """A collection that is to follow a directory by itself.

    Attributes:
        source: As its owner wrote it.
    """

    tenant: str
    collection_id: str
    source: DirectoryImport


class Bindings(Protocol):
    """Which collections follow a directory by themselves."""

    def follow(self) -> AsyncIterator[Mapping[str, Binding | None]]:
        """Collections by uid: at first all, then each that changes; None where one follows nothing, or is gone.

        Raises:
            DependencyUnavailable: whoever knows does not answer; begin anew.
        """
        ...


class Directories(Protocol):
    """Directories documents may be imported from, as a look from outside shows them."""

    async def resolve(self, tenant: str, wanted: DirectoryImport) -> tuple[DirectoryImport, str]:
        """As of Files."""
        ...

    async def stamp(self, tenant: str, directory: DirectoryImport) -> str:
        """What differs when a file came, went, or changed in size or time of modification. No file is read.

        Raises:
            PathNotAllowed, PathNotFound: the directory is gone.
        """
        ...

    def whereabouts(self, tenant: str, directory: DirectoryImport) -> str:
        """The absolute path of a directory that was resolved."""
        ...


class Marks(Protocol):
    """What each collection's directory looked like when it was last synced by itself."""

    async def mark(self, tenant: str, uid: str) -> str:
        """The stamp; "" where there is none, or no longer."""
        ...

    async def set_mark(self, tenant: str, uid: str, stamp: str, keep_s: float) -> None: ...


class Watch(Protocol):
    """Tells of changes as they happen, where the system can. Some may go unnoticed; one at a time waits."""

    async def changed(self, paths: Collection[str], timeout_s: float, woken: asyncio.Event) -> frozenset[str]:
        """Which of these directories something happened in, or may have; none when time is up, or `woken` is set."""
        ...
