"""Bounds each call."""

import asyncio
import time
from typing import Any

from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.errors import DeadlineExceeded

# Given up before the caller's own deadline, where gRPC itself would answer: without details. At most a tenth of it.
_ANSWER_S = 0.050


class Deadline:
    """Ends a call at the method's timeout or just before its caller's deadline; outgoing calls take what is left."""

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        remaining_s = call.context.time_remaining()
        timeout_s = call.method.timeout_s
        if remaining_s is not None:
            timeout_s = min(timeout_s, remaining_s - min(_ANSWER_S, remaining_s / 10))
        call.deadline = time.monotonic() + timeout_s
        try:
            async with asyncio.timeout(timeout_s) as bound:
                return await proceed(call, request)
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(
                f"{call.method.name} did not end within {timeout_s:.3g} s", method=call.method.path
            ) from None
