"""Logs each call."""

import time
from typing import Any

import structlog

from services.mesh.calls import Call
from services.mesh.chain import Proceed


class CallLog:
    """Writes one line when a call ends: who, what, how it ended, how long it took. Never a token, never a message."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("mesh.calls")

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        started = time.perf_counter()
        try:
            return await proceed(call, request)
        finally:
            who = call.caller
            self._log.info(
                "call",
                request_id=call.request_id,
                trace_id=call.trace_id,
                tenant=who and who.tenant,
                subject=who and who.subject,
                peer_service=who and who.service,
                method=call.method.path,
                code=call.status.name,
                duration_ms=round((time.perf_counter() - started) * 1e3, 3),
            )
