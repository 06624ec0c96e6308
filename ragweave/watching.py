"""Watches that go on where they were, whatever broke them off: a connection, a server, the longest life of a stream."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc

from ragweave.errors import RagweaveError

# A watch outlives a restart of what it watches: this many failed attempts in a row, this far apart.
FAILURES = 60
PAUSE_S = 0.5
_AGAIN = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)

# Asks for what comes after a sequence: the call, whose messages have a `sequence`, and the last one a `final_status`.
Ask = Callable[[int], Any]


class _Place:
    """Where a watch is, and whether it goes on."""

    def __init__(self, after: int) -> None:
        self.after = after
        self._failures = 0

    def interrupted(self, message: Any) -> bool:
        """Notes how far it is; whether this message only says to go on elsewhere."""
        self._failures = 0
        self.after = max(self.after, message.sequence)
        return message.HasField("final_status") and message.final_status.code in [code.value[0] for code in _AGAIN]

    def broke_off(self, error: grpc.RpcError) -> None:
        """Raises RagweaveError where it does not go on."""
        self._failures += 1
        if not _broke_off(error) or self._failures == FAILURES:
            raise RagweaveError.of(error) from error


def watched(ask: Ask, after: int) -> Iterator[Any]:
    """Each message once and in order, to the one with the final status."""
    place = _Place(after)
    while True:
        call = ask(place.after)
        try:
            for message in call:
                if place.interrupted(message):
                    break
                yield message
                if message.HasField("final_status"):
                    return
        except grpc.RpcError as error:
            place.broke_off(error)
        finally:
            call.cancel()
        time.sleep(PAUSE_S)


async def watched_async(ask: Ask, after: int) -> AsyncIterator[Any]:
    """As `watched`."""
    place = _Place(after)
    while True:
        call = ask(place.after)
        try:
            async for message in call:
                if place.interrupted(message):
                    break
                yield message
                if message.HasField("final_status"):
                    return
        except grpc.RpcError as error:
            place.broke_off(error)
        finally:
            call.cancel()
        await asyncio.sleep(PAUSE_S)


def _broke_off(error: grpc.RpcError) -> bool:
    """Whether the connection ended and not the call. A proxy resets the stream where the server behind it died, which
    reads as INTERNAL; a server's own INTERNAL says its reason.
    """
    if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        return not RagweaveError.of(error).reason
    return error.code() in _AGAIN
