"""Records each mutation that somebody asks for."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc

from services.mesh.audit import AuditEvent, Trail, new_event_id
from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.identity import Caller
from services.mesh.interceptors.errors import code_after
from services.mesh.resources import named_by, named_in, plain

_MAX_SUBJECT = 512
_MAX_TOKEN_ID = 256


class Audit:
    """Writes an event ahead of each public method that may change something, and how it ended before its caller hears.

    Refusals are mutations asked for, too: of a scope that lacks, of a field that is wrong. Calls without a token are
    not, for nobody vouches for their tenant. Of a stream of requests the first is what names the resource.
    """

    def __init__(self, trail: Trail) -> None:
        self._trail = trail

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        who = call.caller
        if who is None or not _recorded(call, who):
            return await proceed(call, request)
        recording = _Recording(self._trail, _event(call, who))
        started = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            if call.method.client_streaming:
                request = recording.begun_by_first(request)
            else:
                await recording.begin(request)
            response = await proceed(call, request)
            recording.note(response)
            return response
        except BaseException as error:
            code = code_after(call, error)
            raise
        finally:
            await recording.end(code, time.perf_counter() - started)


class _Recording:
    """One event on its way."""

    def __init__(self, trail: Trail, event: AuditEvent) -> None:
        self._trail = trail
        self._event = event

    async def begin(self, request: Any) -> None:
        self._event = replace(
            self._event, resource=named_in(request), validate_only=getattr(request, "validate_only", False)
        )
        await self._trail.begin(self._event)

    async def begun_by_first(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = True
        async for request in requests:
            if first:
                await self.begin(request)
                first = False
            yield request

    def note(self, response: Any) -> None:
        if response is not None and not self._event.validate_only:
            self._event = replace(self._event, resource=named_by(response, self._event.resource))

    async def end(self, code: grpc.StatusCode, seconds: float) -> None:
        await self._trail.end(replace(self._event, code=code.name, duration_ms=round(seconds * 1e3, 3)))


def _recorded(call: Call, who: Caller) -> bool:
    method = call.method
    if method.internal or method.idempotency == "NO_SIDE_EFFECTS":
        return False
    return not who.anonymous or method.public_collections


def _event(call: Call, who: Caller) -> AuditEvent:
    event_id, event_time = new_event_id()
    return AuditEvent(
        event_id=event_id,
        tenant=who.tenant,
        event_time=event_time,
        subject=plain(who.subject, _MAX_SUBJECT),
        service=who.service or "",
        method=call.method.path,
        call_id=call.request_id,
        trace_id=call.trace_id,
        token_id=plain(who.token_id, _MAX_TOKEN_ID),
    )
