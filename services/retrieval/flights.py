"""Work that several callers want at the same time, done once."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from services.mesh.errors import DomainError

# A follower waits for so much of its time; then there is still enough left for doing the work itself.
_PATIENCE: Final = 0.5
# A flight that had at least so much of a follower's time was not worse off: its failure is the follower's too.
_ENOUGH: Final = 0.8


class Outcome(Protocol):
    """What a flight brings."""

    @property
    def whole(self) -> bool:
        """Whether more time would not have made it better."""
        ...


T = TypeVar("T", bound=Outcome)


@dataclass(slots=True, eq=False)
class _Flight(Generic[T]):
    """Work under way.

    Attributes:
        revisions: Of what it reads, when it began.
        until_s: Its deadline, by time.monotonic().
        waiting: Callers that want it; without any it is cancelled.
    """

    task: "asyncio.Task[T]"
    revisions: Sequence[int]
    until_s: float
    waiting: int = 0


class Flights(Generic[T]):
    """Lets callers of the same work share it.

    Each caller leaves when it likes. Nobody shares work that began before a revision it must see; nor is anybody the
    worse for the one who began it having less time.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[T]] = {}

    async def fly(
        self, key: Hashable, revisions: Sequence[int], timeout_s: float | None, work: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """The outcome of the work, and whether somebody else had begun it.

        Args:
            timeout_s: What the caller's time leaves; None where it has no end.
        """
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
        known = self._flights.get(key)
        if known is not None and all(map(int.__ge__, known.revisions, revisions)):
            shared = await self._shared(known, until_s)
            if shared is not None:
                return shared, True
        flight = self._flights[key] = _Flight(asyncio.ensure_future(_run(work)), revisions, until_s)
        flight.task.add_done_callback(lambda _: self._landed(key, flight))
        await _waited(flight, math.inf)
        return flight.task.result(), False

    async def _shared(self, flight: _Flight[T], until_s: float) -> T | None:
        """What the flight brings, unless this caller may do better."""
        now_s = time.monotonic()
        enough = flight.until_s == math.inf or flight.until_s - now_s >= _ENOUGH * (until_s - now_s)
        await _waited(flight, until_s if until_s == math.inf else now_s + _PATIENCE * (until_s - now_s))
        if not flight.task.done() or flight.task.cancelled():
            return None
        failed = flight.task.exception()
        if failed is None:
            outcome = flight.task.result()
            return outcome if outcome.whole or enough else None
        if enough and isinstance(failed, DomainError):
            raise failed
        return None

    def _landed(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


async def _run(work: Callable[[], Awaitable[T]]) -> T:
    return await work()


async def _waited(flight: _Flight[T], until_s: float) -> None:
    """Waits for the end of the flight, or until a time; the last who leaves ends the flight."""
    flight.waiting += 1
    try:
        await asyncio.wait([flight.task], timeout=None if until_s == math.inf else until_s - time.monotonic())
    finally:
        flight.waiting -= 1
        if not flight.waiting and not flight.task.done():
            flight.task.cancel()
