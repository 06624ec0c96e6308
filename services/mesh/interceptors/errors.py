"""Turns what a handler raises into the one error shape."""

import asyncio
import math
from contextlib import suppress
from typing import Any

import grpc
import structlog

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.spelling import for_rest
from services.mesh.status import DETAILS_KEY, code_of, dependency_of, is_expected, reason_of, retry_after_s, status_of

# How long a client may go on sending after its call has failed, and the pause that says it waits for an answer.
_DRAIN_S = 1.0
_IDLE_S = 0.02
# What failed for want of something the service needs: the message names that, and nothing of the request.
_NOBODYS_FAULT = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class Errors:
    """Ends a failed call with a google.rpc.Status; the unexpected is logged with its trace id and becomes INTERNAL.

    A failure is an answer: neither the edge nor a channel sends the call again, as they do where nobody answers. What
    is worth another try was tried here; each hop that tried once more would double what its backend gets.
    """

    def __init__(self) -> None:
        self._log = structlog.get_logger("mesh.errors")

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        try:
            return await proceed(call, request)
        except grpc.aio.AbortError as error:
            call.status = code_after(call, error)
            raise
        except asyncio.CancelledError as error:
            if _cancelling():
                call.status = code_after(call, error)
                raise
            # A stray one: it would end the call without a status, and its caller would wait for its deadline.
            await self._fail(call, error)
        except Exception as error:
            await self._fail(call, error)

    async def _fail(self, call: Call, error: BaseException) -> None:
        status = status_of(error)
        if call.transcoded:
            status = for_rest(status, call.method)
        call.status = code_of(status)
        call.reason = reason_of(status)
        if call.status in _NOBODYS_FAULT:
            call.dependency, call.why = dependency_of(status), status.message
        if not is_expected(error):
            self._log.error("unexpected error", exc_info=error)
        if (seconds := retry_after_s(status)) is not None:
            call.headers.append(("retry-after", str(max(1, math.ceil(seconds)))))
        if call.method.client_streaming:
            await _writes_ended(call)
        if call.status is grpc.StatusCode.UNAVAILABLE and call.method.retried:
            await call.send_headers()  # commits the call: retry policies look at a lone block of trailers (gRFC A6)
        headers = [] if call.headers_sent else call.headers
        await call.context.abort(call.status, status.message, (*headers, (DETAILS_KEY, status.SerializeToString())))


def code_after(call: Call, error: BaseException) -> grpc.StatusCode:
    """The code a call ends with that `error` leaves."""
    if isinstance(error, grpc.aio.AbortError):  # a handler that ended the call by itself
        return _aborted_with(call)
    if isinstance(error, asyncio.CancelledError) and _cancelling():
        return grpc.StatusCode.DEADLINE_EXCEEDED if call.remaining_s() == 0 else grpc.StatusCode.CANCELLED
    return code_of(status_of(error))


async def _writes_ended(call: Call) -> None:
    """Takes what the client still sends, until it stops for a moment.

    A grpc.aio client that is in the middle of a write when its call ends reports INTERNAL "Internal error from Core"
    and loses the status (grpcio 1.85.1: 1 in 10 on a busy machine).
    """
    with suppress(TimeoutError, grpc.aio.BaseError):
        async with asyncio.timeout(_DRAIN_S):
            while True:
                async with asyncio.timeout(_IDLE_S):
                    if await call.context.read() is grpc.aio.EOF:
                        return


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _aborted_with(call: Call) -> grpc.StatusCode:
    code: Any = call.context.code()
    return code if isinstance(code, grpc.StatusCode) else grpc.StatusCode.UNKNOWN
