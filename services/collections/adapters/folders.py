"""The Folders port over the roots of this machine, in a few threads of its own."""

import asyncio
import heapq
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, ParamSpec, TypeVar

from services.collections.entries import Entry, FoundRoot, Kind, problem_of_file
from services.mesh.beneath import Opener, safest_opener
from services.mesh.errors import (
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    PathNotAllowed,
    PathNotFound,
    TooManyRequests,
    UnreadableDocument,
)
from services.mesh.folders import Folder, walk
from services.mesh.lists import ListQuery, Page, paginate
from services.mesh.media_types import type_by_name
from services.mesh.paths import MAX_BYTES, legible, shown
from services.mesh.roots import Place, Roots

P = ParamSpec("P")
T = TypeVar("T")

# Listings and counts under way, and those that may wait for one to end. Threads: the file system may be far and slow.
_THREADS: Final = 4
_WAITING: Final = 32
# Less than the longest a call may take (10 s, by the contract).
_LIST_S: Final = 7.0
_COUNT_S: Final = 3.0
_MAX_NAMES: Final = 1_000_000
_MAX_SKIPPED: Final = 10_000
_MAX_MEASURED: Final = 100_000
_MAX_COUNTED: Final = 10_000
_BEGIN_BYTES: Final = 4096
_HIDDEN: Final = "imports leave out what begins with a dot"
# The bounds of google.protobuf.Timestamp.
_FIRST_S: Final = -62_135_596_800
_LAST_S: Final = 253_402_300_799


@dataclass(frozen=True, slots=True)
class _Named:
    """A name of a folder, and its path as requests write it."""

    name: str
    path: str


class ConfinedFolders:
    """The roots of all tenants.

    Args:
        max_file_bytes: Larger files are not imported.
    """

    def __init__(
        self, roots: Roots, threads: ThreadPoolExecutor, *, max_file_bytes: int, opener: Opener | None = None
    ) -> None:
        self._roots = roots
        self._threads = threads
        self._room = threading.Semaphore(_THREADS + _WAITING)
        self._max_file_bytes = max_file_bytes
        self._opener = opener or safest_opener()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, roots: Roots, *, max_file_bytes: int, opener: Opener | None = None
    ) -> AsyncIterator["ConfinedFolders"]:
        threads = ThreadPoolExecutor(_THREADS, "folders")
        try:
            yield cls(roots, threads, max_file_bytes=max_file_bytes, opener=opener)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    async def roots(self, tenant: str) -> list[FoundRoot]:
        return await self._run(self._found_roots, tenant)

    async def entries(self, tenant: str, path: str, query: ListQuery, *, hidden: bool) -> Page[Entry]:
        return await self._run(self._entries, tenant, path, query, hidden)

    async def admit(self, tenant: str, path: str) -> None:
        await self._run(self._roots.place, tenant, path)

    async def look(self, tenant: str, path: str) -> Entry:
        return await self._run(self._look, tenant, path)

    async def count(self, tenant: str, path: str) -> tuple[int, bool]:
        return await self._run(self._count, tenant, path)

    async def _run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The work in a thread. A caller that leaves does not stop it; every work ends by itself in some seconds."""
        if not self._room.acquire(blocking=False):
            raise TooManyRequests("too many folders are being looked into; try again", retry_after_s=1.0)
        job = self._threads.submit(work, *args, **kwargs)
        job.add_done_callback(self._leave)
        return await asyncio.wrap_future(job)

    def _leave(self, job: Future[Any]) -> None:
        self._room.release()

    def _found_roots(self, tenant: str) -> list[FoundRoot]:
        found = []
        for root in self._roots.of(tenant):
            place, problem = Place(root, ""), ""
            try:
                Folder.at(place, self._opener).close()
            except DomainError as error:
                problem = error.message
            found.append(FoundRoot(root.name, place.spelt, problem))
        return found

    def _entries(self, tenant: str, path: str, query: ListQuery, hidden: bool) -> Page[Entry]:
        place = self._roots.place(tenant, path)
        with Folder.at(place, self._opener) as folder:
            names = _listed(folder, place, hidden)
            page = _by_path(names, query) if query.order[0].field == "path" else _by_status(folder, names, query)
            # Between the two looks a name may have gone.
            entries = (self._entry(folder, named) for named in page.items)
            return Page(tuple(filter(None, entries)), page.next_page_token, page.total_size)

    def _look(self, tenant: str, path: str) -> Entry:
        place = self._roots.place(tenant, path)
        *above, name = place.names or ("",)
        with Folder.at(Place(place.root, shown("/".join(above))), self._opener, spelt=place.spelt) as folder:
            folder.status(name, place.spelt)
            entry = self._entry(folder, _Named(name, place.spelt), by_name=True)
        if entry is None:
            raise PathNotFound(f"{legible(place.spelt)}: there is no such file or directory")
        return entry

    def _count(self, tenant: str, path: str) -> tuple[int, bool]:
        place = self._roots.place(tenant, path)
        until, count = time.monotonic() + _COUNT_S, 0
        with Folder.at(place, self._opener) as top, closing(walk(top)) as found:
            for seen in found:
                if stat.S_ISREG(seen.status.st_mode):
                    count += not self._problem(seen.folder, seen.name, seen.status.st_size)
                if count == _MAX_COUNTED or time.monotonic() > until:
                    return count, False
        return count, True

    def _entry(self, folder: Folder, named: _Named, *, by_name: bool = False) -> Entry | None:
        """What a name of the folder is; None where it has gone. `by_name`: the import would name it."""
        try:
            status = folder.status(named.name)
        except PathNotFound:
            return None
        kind, problem = _kind(status.st_mode)
        regular = kind is Kind.FILE
        if regular and (by_name or not named.name.startswith(".")):
            problem = self._problem(folder, named.name, status.st_size, always=by_name)
        if named.name.startswith(".") and not by_name:
            problem = _HIDDEN
        if len(named.path.encode()) > MAX_BYTES:
            problem = f"its path is longer than {MAX_BYTES} bytes"
        return Entry(
            path=named.path,
            kind=kind,
            size_bytes=status.st_size if regular else None,
            update_time=_moment(status.st_mtime),
            mime_type=type_by_name(shown(named.name)) if regular else "",
            problem=problem,
        )

    def _problem(self, folder: Folder, name: str, size_bytes: int, *, always: bool = False) -> str:
        """Why an import would leave out a regular file. `always`: find out too whether it may be read."""

        def begin() -> bytes:
            return folder.begin(name, shown(name), _BEGIN_BYTES)

        try:
            if always:
                begin()
            return problem_of_file(shown(name), size_bytes, self._max_file_bytes, begin)
        except (PathNotAllowed, UnreadableDocument) as error:
            return error.message


def _listed(folder: Folder, place: Place, hidden: bool) -> Iterator[_Named]:
    """The folder's names, in no order and never all held.

    Raises:
        FailedPrecondition: There are too many.
        DeadlineExceeded: Reading them takes too long.
    """
    # As requests write it, less the name.
    prefix = place.below("_").spelt[:-1]
    until = time.monotonic() + _LIST_S
    for number, name in enumerate(folder.scan()):
        if number >= _MAX_NAMES:
            raise FailedPrecondition(
                f"{legible(place.spelt)}: it has more than {_MAX_NAMES:,} entries, which is too many to list; an "
                "import may take it all the same"
            )
        if not number % 1000 and time.monotonic() > until:
            raise DeadlineExceeded(f"{legible(place.spelt)}: listing it takes too long")
        if hidden or not name.startswith("."):
            yield _Named(name, prefix + shown(name))


def _by_path(names: Iterator[_Named], query: ListQuery) -> Page[_Named]:
    """The page of names in the order of paths; as many are held as the page and those before it by number have.

    Raises:
        InvalidArgument: Those are too many.
    """
    if query.offset > _MAX_SKIPPED:
        raise InvalidArgument.of("page", f"numbered pages reach {_MAX_SKIPPED:,} entries far; use page_token")
    descending = query.order[0].descending
    last = query.cursor[0] if query.cursor else None
    total = 0

    def wanted() -> Iterator[_Named]:
        nonlocal total
        for named in names:
            total += 1
            if last is None or (named.path < last if descending else named.path > last):  # type: ignore[operator]  # text, by the schema
                yield named

    choose = heapq.nlargest if descending else heapq.nsmallest
    found = choose(query.offset + query.page_size + 1, wanted(), key=lambda named: named.path)
    return query.page(found[query.offset :], total, lambda named: {"path": named.path})


def _by_status(folder: Folder, names: Iterator[_Named], query: ListQuery) -> Page[_Named]:
    """The page of names in the order of sizes or times: every entry has to be looked at."""
    until = time.monotonic() + _LIST_S
    found: dict[_Named, dict[str, Any]] = {}
    for named in names:
        if len(found) == _MAX_MEASURED:
            raise FailedPrecondition(
                f"order_by: a folder of more than {_MAX_MEASURED:,} entries can be ordered by path only"
            )
        if time.monotonic() > until:
            raise DeadlineExceeded("order_by: looking at every entry takes too long; order by path")
        try:
            status = folder.status(named.name)
        except PathNotFound:
            continue
        found[named] = {
            "path": named.path,
            "size_bytes": status.st_size if stat.S_ISREG(status.st_mode) else None,
            "update_time": _moment(status.st_mtime),
        }
    return paginate(found, query, lambda named: found[named])


def _kind(mode: int) -> tuple[Kind, str]:
    """What an entry is, and why an import would leave it out for that."""
    if stat.S_ISREG(mode):
        return Kind.FILE, ""
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY, ""
    if stat.S_ISLNK(mode):
        return Kind.SYMLINK, "it is a symbolic link, and none is followed"
    return Kind.OTHER, "it is not a regular file"


def _moment(seconds: float) -> datetime:
    """A time of the file system, which may be one no message can hold."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST_S), _LAST_S), UTC)
