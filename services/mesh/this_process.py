"""How this process is: put together for whoever asks."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Final, Protocol, TypeAlias

import structlog

from services.mesh.breakers import Breaker
from services.mesh.consumption import Consumption
from services.mesh.reports import (
    BreakerReport,
    DependencyReport,
    ProcessReport,
    QueueReport,
    State,
    worst,
)
from services.mesh.settings import MeshSettings

# What waits in a process or for it, as it is now.
Queues: TypeAlias = Callable[[], Awaitable[Sequence[QueueReport]]]

_WATCH_S: Final = 10.0
# Shorter than whoever asks waits.
_QUEUES_TIMEOUT_S: Final = 0.4


class Dependencies(Protocol):
    """What has been found out about dependencies; fulfilled by Readiness."""

    @property
    def draining(self) -> bool: ...

    def reports(self) -> Sequence[DependencyReport]: ...


class Unchecked:
    """Dependencies of a process that checks none: what its breakers know is all that is known."""

    draining = False

    def reports(self) -> Sequence[DependencyReport]:
        return ()


async def no_queues() -> Sequence[QueueReport]:
    return ()


class ThisProcess:
    """Reports on the process it runs in.

    Args:
        name: Its name where the settings give it none: its service's.
        running_calls: How many calls it runs.
        breakers: Its circuit breakers; those of a dependency that is checked too are told with it.
        loop_lag_s: The longest its event loop kept something waiting, of late.
    """

    def __init__(
        self,
        name: str,
        settings: MeshSettings,
        dependencies: Dependencies,
        *,
        queues: Queues = no_queues,
        running_calls: Callable[[], int] = lambda: 0,
        breakers: Callable[[], Iterable[Breaker]] = tuple,
        loop_lag_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._name = settings.process or f"{name}@{socket.gethostname()}"
        self._commit = settings.commit
        self._dependencies = dependencies
        self._queues = queues
        self._running_calls = running_calls
        self._breakers = breakers
        self._loop_lag_s = loop_lag_s
        self._consumption = Consumption()
        self._start_time, self._began_s = datetime.now(UTC), time.monotonic()
        self._log = structlog.get_logger("mesh.process")

    async def report(self) -> ProcessReport:
        """How it is now; from what the checks found last."""
        dependencies = with_breakers(self._dependencies.reports(), self._breakers())
        state, error = (State.DOWN, "stopping") if self._dependencies.draining else worst(dependencies)
        return ProcessReport(
            name=self._name,
            state=state,
            error=error,
            version=product_version(),
            commit=self._commit,
            start_time=self._start_time,
            uptime_s=time.monotonic() - self._began_s,
            memory_bytes=self._consumption.memory_bytes(),
            cpu_usage=self._consumption.cpu_usage(),
            loop_lag_s=self._loop_lag_s(),
            running_calls=self._running_calls(),
            dependencies=tuple(dependencies),
            queues=tuple(await self._waiting()),
        )

    async def watch(self) -> None:
        """Looks at what it takes every now and then until cancelled, so that a report is about the time before it."""
        while True:
            self._consumption.cpu_usage()
            await asyncio.sleep(_WATCH_S)

    async def _waiting(self) -> Sequence[QueueReport]:
        """Queues that cannot be asked are left out: the dependency that keeps them is told as it is."""
        try:
            async with asyncio.timeout(_QUEUES_TIMEOUT_S):
                return await self._queues()
        except Exception as error:
            self._log.warning("queues cannot be told", error=type(error).__name__)
            return ()


def with_breakers(looked_at: Sequence[DependencyReport], breakers: Iterable[Breaker]) -> list[DependencyReport]:
    """Dependencies with what their breakers say; the worse of the two counts."""
    found = {each.name: each for each in looked_at}
    for breaker in breakers:
        told = _told(breaker)
        state, error = told.dependency_state, "" if told.dependency_state is State.SERVING else told.last_error
        known = found.get(breaker.dependency) or DependencyReport(breaker.dependency, State.SERVING)
        found[breaker.dependency] = replace(
            known,
            state=max(known.state, state, key=list(State).index),
            error=known.error or error,
            breaker=told,
        )
    return sorted(found.values(), key=lambda each: (not each.required, each.name))


def _told(breaker: Breaker) -> BreakerReport:
    opened = breaker.opened_at
    return BreakerReport(
        breaker.state,
        breaker.failures,
        None if opened is None else datetime.fromtimestamp(opened, UTC),
        breaker.last_error,
    )


@cache
def product_version() -> str:
    """Version of the installed software; "unknown" where it is not installed."""
    try:
        return version("ragweave")
    except PackageNotFoundError:
        return "unknown"
