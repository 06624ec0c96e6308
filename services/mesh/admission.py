"""Who may run now, who waits, and who is told at once that waiting would be in vain.

Of calls of one kind so many run at a time, the others wait in line. What a newcomer would wait is Little's law: as many
calls as are before it, times what lies between two ends while the service does all it can. With what its method took
lately on top, that must fit into its deadline, with a margin for being wrong; else it is refused before it costs much.

Calls also wait before anybody looks at them: gRPC takes in one for each turn of a process's event loop, so that a busy
one has a line of which it knows nothing. Who comes out of that with most of its time gone is refused, too, even where
there is room: those behind it have waited as long, and answering late ones only would make all of them late.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import Final

# On an answer: the call was one too many. So the edge learns to refuse a share of them itself (envoy/pressure.lua).
SHED_HEADER: Final = "x-ragweave-overloaded"
# On a call: its time when the edge sent it on, as grpc-timeout has it; that header itself gRPC keeps to itself.
GIVEN_HEADER: Final = "x-ragweave-timeout"
# A call that may take longer by its nature, such as a watch or an upload, holds a connection, hardly a processor.
LONGEST_JUDGED_S: Final = 60.0
# Share of the time left that may be planned with: what calls take varies, and an answer has to travel back.
PLANNED: Final = 0.75
# Share of its time that a call must have left when it is looked at first, if it has waited for longer than a busy loop
# takes: a caller that gives its calls no time is not a service that has none.
FRESH: Final = 0.5
WAITED_UNSEEN_S: Final = 0.25
# Weight of the last observation; of the ends, which come in bursts, about the last 30 count.
_TOOK_WEIGHT: Final = 0.1
_APART_WEIGHT: Final = 1 / 30


class Reason(StrEnum):
    """Why a call is refused."""

    QUEUE_FULL = "queue_full"
    TOO_LATE = "too_late"
    WAITED = "waited"
    STALE = "stale"


class Refused(Exception):
    """The call cannot be answered in time.

    Attributes:
        retry_after_s: When those before it will have ended.
    """

    def __init__(self, reason: Reason, retry_after_s: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


class Gate:
    """Lets calls of one kind in. Belongs to one event loop.

    Args:
        running: Most that run at a time.
        waiting: Most that wait.

    Attributes:
        waiting: How many wait now.
    """

    def __init__(self, *, running: int, waiting: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = running
        self._most = waiting
        self._clock = clock
        self._running = 0
        self._line: deque[asyncio.Future[None]] = deque()
        self._took_s: dict[str, float] = {}
        self._apart_s: float | None = None
        self._last_end: float | None = None

    @property
    def waiting(self) -> int:
        return len(self._line)

    async def enter(self, method: str, remaining_s: float | None, given_s: float | None = None) -> None:
        """Returns when the call may run; `leave` must follow, however it ends.

        Args:
            remaining_s: What its deadline leaves; None without one.
            given_s: What it left when the call came to this process; None where nobody says so.

        Raises:
            Refused: It would be late, or too many wait; or it waited longer than could be foreseen, here or before.
        """
        unseen_s = 0.0 if remaining_s is None or given_s is None else given_s - remaining_s
        if self._running and unseen_s > max(WAITED_UNSEEN_S, (1 - FRESH) * (given_s or 0.0)):
            raise Refused(Reason.STALE, self._wait_s())
        if self._running < self._room:
            self._running += 1
            return
        took_s, wait_s = self._took_s.get(method, 0.0), self._wait_s()
        if len(self._line) >= self._most:
            raise Refused(Reason.QUEUE_FULL, wait_s)
        if remaining_s is not None and wait_s + took_s > PLANNED * remaining_s:
            raise Refused(Reason.TOO_LATE, wait_s)
        began_s = self._clock()
        await self._turn()
        if remaining_s is not None and self._clock() - began_s + self._took_s.get(method, 0.0) > remaining_s:
            self._next()
            raise Refused(Reason.WAITED, self._wait_s())

    def leave(self, method: str, took_s: float) -> None:
        """A call that ran has ended, and lets the next one in."""
        before_s = self._took_s.get(method, took_s)
        self._took_s[method] = before_s + _TOOK_WEIGHT * (took_s - before_s)
        self._note_end()
        self._next()

    def _wait_s(self) -> float:
        """What a newcomer would wait. Before anything was seen under load: as if nobody stood in another's way."""
        apart_s = self._apart_s
        if apart_s is None:
            apart_s = max(self._took_s.values(), default=0.0) / self._room
        return (len(self._line) + 1) * apart_s

    def _note_end(self) -> None:
        """The time between two ends tells what the service can do only while it does all it can."""
        if self._running < self._room:
            self._last_end = None
            return
        now_s = self._clock()
        if self._last_end is not None:
            apart_s = now_s - self._last_end
            before_s = self._apart_s if self._apart_s is not None else apart_s
            self._apart_s = before_s + _APART_WEIGHT * (apart_s - before_s)
        self._last_end = now_s

    async def _turn(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # its turn had come already
                self._next()
            elif turn in self._line:
                self._line.remove(turn)
            raise

    def _next(self) -> None:
        """Hands the place of a call that ended to the one that has waited for longest."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._running -= 1
