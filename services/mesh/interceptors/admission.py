"""Sheds load: refuses at once what could not be answered in time."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from services.mesh.admission import GIVEN_HEADER, LONGEST_JUDGED_S, SHED_HEADER, Gate, Refused
from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.errors import Overloaded

# What nobody limits: the services' own calls.
_UNLIMITED: Final = "UNLIMITED"
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_SHORTEST_RETRY_S: Final = 0.1


@cache
def _families(registry: CollectorRegistry) -> tuple[Counter, Gauge]:
    """What was refused and what waits; made once for a registry, since a name may be taken once."""
    return (
        Counter(
            "ragweave_rpc_shed",
            "Calls refused because they could not be answered in time: the queue is full, the wait too long for the "
            "deadline, or it turned out to be.",
            ["method", "reason"],
            registry=registry,
        ),
        Gauge("ragweave_rpc_waiting", "Calls that wait for their turn.", ["rate_class"], registry=registry),
    )


class Admission:
    """Runs so many calls of a rate class at a time, has others wait, and refuses what would be late.

    At the door of the mesh alone: a call that one service makes of another belongs to one that has been let in, or to a
    worker, which knows how to wait. Health and reflection never come here.

    Args:
        running: Calls of one class that run at a time.
        waiting: Calls of one class that may wait.
    """

    def __init__(
        self,
        *,
        running: int,
        waiting: int,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._running = running
        self._waiting = waiting
        self._clock = clock
        self._gates: dict[str, Gate] = {}
        self._shed, self._in_line = _families(registry)

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        method = call.method
        if (
            method.rate_class == _UNLIMITED
            or method.timeout_s > LONGEST_JUDGED_S
            or (call.caller is not None and call.caller.service is not None)
        ):
            return await proceed(call, request)
        gate = self._gates.get(method.rate_class) or self._opened(method.rate_class)
        try:
            await gate.enter(method.path, call.remaining_s(), _given_s(call))
        except Refused as refused:
            self._shed.labels(method.path, refused.reason).inc()
            call.headers.append((SHED_HEADER, "1"))
            raise Overloaded(
                f"more is asked of {method.service.rpartition('.')[2]} than it can answer in time; try again later",
                retry_after_s=max(_SHORTEST_RETRY_S, refused.retry_after_s),
                cause=refused.reason,
            ) from None
        began_s = self._clock()
        try:
            return await proceed(call, request)
        finally:
            gate.leave(method.path, self._clock() - began_s)

    def _opened(self, rate_class: str) -> Gate:
        gate = self._gates[rate_class] = Gate(running=self._running, waiting=self._waiting, clock=self._clock)
        self._in_line.labels(rate_class).set_function(lambda: gate.waiting)
        return gate


def _given_s(call: Call) -> float | None:
    """What the call's deadline left when the edge sent it on."""
    given = call.metadata.get(GIVEN_HEADER)
    if not isinstance(given, str) or given[-1:] not in _UNITS_S or not given[:-1].isdecimal():
        return None
    return int(given[:-1]) * _UNITS_S[given[-1]]
