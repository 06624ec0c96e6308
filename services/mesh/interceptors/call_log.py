"""Logs each call."""

import time
from typing import Any

import structlog

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.status import SERVER_FAULTS


class CallLog:
    """Writes one line when a call ends: who, what, how it ended, how long it took. Never a token, never a message.

    A call that failed by no fault of its caller's is a warning, and says for want of what.
    """

    def __init__(self) -> None:
        self._log = structlog.get_logger("mesh.calls")

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        started = time.perf_counter()
        try:
            return await proceed(call, request)
        finally:
            who = call.caller
            failed = {"reason": call.reason, "dependency": call.dependency, "why": call.why}
            log = self._log.warning if call.status in SERVER_FAULTS else self._log.info
            log(
                "call",
                request_id=call.request_id,
                trace_id=call.trace_id,
                tenant=who and who.tenant,
                subject=who and who.subject,
                peer_service=who and who.service,
                method=call.method.path,
                code=call.status.name,
                duration_ms=round((time.perf_counter() - started) * 1e3, 3),
                **{name: value for name, value in failed.items() if value},
            )
