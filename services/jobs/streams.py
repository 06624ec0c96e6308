"""Streams of events that always say how they ended: as they should, with an error, out of time, or with the process."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from services.mesh.errors import DeadlineExceeded, DependencyUnavailable

# A stream says how it ended this long before its time is up.
_MARGIN_S = 0.5


class Sequenced(Protocol):
    @property
    def sequence(self) -> int: ...


S = TypeVar("S", bound=Sequenced)


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a stream: the last sequence it came to, and the error that cut it short."""

    sequence: int
    error: Exception | None = None


class Streams:
    """The streams that this process sends."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    async def told(
        self, events: AsyncGenerator[S, None], after: int, timeout_s: float | None
    ) -> AsyncGenerator[S | Ended, None]:
        """The events as they come, then how the stream ended; it is then closed.

        Args:
            after: The sequence they come after.
            timeout_s: How long it may last.
        """
        stopping = asyncio.ensure_future(self._stopping.wait())
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s - _MARGIN_S
        try:
            while True:
                coming = asyncio.ensure_future(anext(events, None))
                try:
                    left_s = None if until is None else max(0.0, until - loop.time())
                    await asyncio.wait({coming, stopping}, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    if not coming.done():
                        coming.cancel()
                        await asyncio.wait({coming})
                if coming.cancelled():
                    yield Ended(after, self._interrupted())
                    return
                if (error := coming.exception()) is not None:
                    if not isinstance(error, Exception):
                        raise error
                    yield Ended(after, error)
                    return
                event = coming.result()
                if event is None:
                    yield Ended(after)
                    return
                after = event.sequence
                yield event
        finally:
            stopping.cancel()
            await events.aclose()

    def stop(self) -> None:
        """Ends every stream with UNAVAILABLE: this process is about to go; its callers resume elsewhere."""
        self._stopping.set()

    def _interrupted(self) -> Exception:
        if self._stopping.is_set():
            return DependencyUnavailable(
                "this server is shutting down; resume after the last sequence", retry_after_s=1
            )
        return DeadlineExceeded("the stream has reached its longest life; resume after the last sequence")
