"""What a service does by itself now and then: one loop for all, which any number of processes may run at once."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Final

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from services.mesh.errors import DependencyUnavailable

# More than a clock is slewed by between two sweeps, and than a daemon that was late steps it.
_JUMP_S: Final = 60.0
_HELD_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of maintenance.

    Attributes:
        work: Does what is due, in bounded portions, and returns how much that was. It may be repeated, be cut off
            anywhere, and run in several processes at once: nothing else keeps these out of each other's way.
        every_s: Seconds between two runs in one process; 0 for every sweep.
    """

    name: str
    work: Callable[[], Awaitable[int]]
    every_s: float = 0.0


@cache
def _families(registry: CollectorRegistry) -> tuple[Gauge, Counter]:
    """When each step last went well, and what it came to; made once for a registry."""
    labels = ["service", "step"]
    return (
        Gauge(
            "ragweave_maintenance_last_run_timestamp_seconds", "When a step last ended well.", labels, registry=registry
        ),
        Counter("ragweave_maintenance_done", "Things seen to.", labels, registry=registry),
    )


class Maintenance:
    """Sweeps now and then. A step that fails is left for the next sweep, and the others go on.

    What steps do goes by the wall clock, and some of it is for good: a deletion that can be taken back for 30 days is
    final after them. So a clock that jumps is not believed at once: for a while nothing is done, so that it may be set
    right.

    Args:
        interval_s: Seconds between two sweeps, give or take a quarter: processes started together drift apart.
        wall: Unix time.
    """

    def __init__(
        self,
        service: str,
        steps: Sequence[Step],
        *,
        interval_s: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._service = service
        self._steps = steps
        self._interval_s = interval_s
        self._clock = clock
        self._wall = wall
        self._offset_s = wall() - clock()
        self._held_until_s = float("-inf")
        self._last_run, self._done = _families(registry)
        self._due_s: dict[str, float] = {}
        self._last_time: dict[str, datetime] = {}
        self._log = structlog.get_logger(f"{service}.maintenance")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweeps inside the block, from its beginning on."""
        sweeping = asyncio.create_task(self._run())
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    async def sweep(self) -> None:
        """Takes every step that is due, once; none for a while after the wall clock has jumped."""
        self._look_at_clock()
        if self._clock() < self._held_until_s:
            return
        for step in self._steps:
            if self._clock() >= self._due_s.get(step.name, float("-inf")):
                await self._take(step)

    async def _run(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(self._interval_s * random.uniform(0.75, 1.25))  # noqa: S311  (spreads, guards nothing)

    def _look_at_clock(self) -> None:
        """A machine that slept looks the same: its monotonic clock stood still. It waits, too."""
        offset_s = self._wall() - self._clock()
        jumped_s, self._offset_s = offset_s - self._offset_s, offset_s
        if abs(jumped_s) > _JUMP_S:
            self._held_until_s = self._clock() + _HELD_S
            self._log.error("the clock jumped; maintenance waits", by_s=round(jumped_s), for_s=_HELD_S)

    async def _take(self, step: Step) -> None:
        last = self._last_time.get(step.name)
        log = self._log.bind(step=step.name, last_run=last.isoformat() if last else None)
        began_s = self._clock()
        try:
            done = await step.work()
        except DependencyUnavailable as error:
            log.warning("maintenance put off", reason=error.message)
            return
        except Exception:
            log.exception("maintenance failed")
            return
        self._due_s[step.name] = began_s + step.every_s
        self._last_time[step.name] = datetime.now(UTC)
        self._last_run.labels(self._service, step.name).set_to_current_time()
        if done:
            self._done.labels(self._service, step.name).inc(done)
            log.info("maintained", done=done, took_s=round(self._clock() - began_s, 3))
