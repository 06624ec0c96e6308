"""The Watch port over watchfiles: the system tells of changes (inotify and its kin)."""

import asyncio
import threading
from collections.abc import Collection

import structlog
from watchfiles._rust_notify import RustNotify  # documented; `awatch` cannot begin before it waits

# What happens within so long is told of at once, or as soon as nothing happened for a step.
_DEBOUNCE_MS = 1600
_STEP_MS = 50


class WatchedDirectories:
    """One watch over all directories, with what is below them; begun anew when they are others.

    Where the system refuses, such as beyond its limit of watches, nothing is told of, and it is asked again for other
    directories.
    """

    def __init__(self) -> None:
        self._paths: frozenset[str] = frozenset()
        self._notify: RustNotify | None = None
        self._log = structlog.get_logger("jobs.watching")

    def __enter__(self) -> "WatchedDirectories":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    async def changed(self, paths: Collection[str], timeout_s: float, woken: asyncio.Event) -> frozenset[str]:
        wanted = frozenset(paths)
        if wanted != self._paths:
            await asyncio.to_thread(self._begin, wanted)
            if self._notify is not None:
                return wanted  # what happened before, nobody has seen
        if self._notify is None:
            try:
                async with asyncio.timeout(timeout_s):
                    await woken.wait()
            except TimeoutError:
                pass
            return frozenset()
        stop = _Either(woken)
        waiting = asyncio.ensure_future(
            asyncio.to_thread(self._notify.watch, _DEBOUNCE_MS, _STEP_MS, max(1, int(timeout_s * 1000)), stop)
        )
        try:
            found = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            stop.set()
            await asyncio.wait({waiting})
            raise
        if isinstance(found, str):
            return frozenset()
        return frozenset(path for path in wanted if any(_in(path, changed) for _, changed in found))

    def _begin(self, paths: frozenset[str]) -> None:
        self._end()
        self._paths = paths
        if not paths:
            return
        try:
            self._notify = RustNotify(sorted(paths), False, False, 0, True, True)
        except (OSError, RuntimeError) as error:
            self._log.warning("directories are not watched, only looked at now and then", error=str(error))

    def _end(self) -> None:
        if self._notify is not None:
            self._notify.close()
        self._notify, self._paths = None, frozenset()


class _Either:
    """Set when it is told to be, or when another is; read from another thread."""

    def __init__(self, other: asyncio.Event) -> None:
        self._other = other
        self._own = threading.Event()

    def set(self) -> None:
        self._own.set()

    def is_set(self) -> bool:
        return self._own.is_set() or self._other.is_set()


def _in(directory: str, path: str) -> bool:
    return path == directory or path.startswith(f"{directory.rstrip('/')}/")
