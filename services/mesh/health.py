"""Health that can fail: what a process needs is checked over and over, and answered as grpc.health.v1."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias

import structlog
from grpc_health.v1 import health, health_pb2

# Raises where the dependency cannot be used.
Check: TypeAlias = Callable[[], Awaitable[None]]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_CHECK_TIMEOUT_S = 2.0
# One late answer on a busy machine must not take a service out of rotation.
_FAILURES_TO_STOP = 2


class Readiness:
    """Runs the checks periodically and says SERVING while all of them pass, for the server and each of its services.

    NOT_SERVING until the first round passed; after that a check must fail twice in a row.

    Args:
        services: Full names of the gRPC services served here; "" (the server) is always answered.
    """

    def __init__(self, services: Iterable[str], checks: Mapping[str, Check], *, interval_s: float) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services = ("", *services)
        self._checks = checks
        self._interval_s = interval_s
        self._failures = dict.fromkeys(checks, 0)
        self._serving: bool | None = None
        self._log = structlog.get_logger("mesh.health")

    async def start(self) -> None:
        """Answers NOT_SERVING for every service from now on."""
        await self._say(serving=False)

    async def run(self) -> None:
        """Checks until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval_s)

    async def check(self) -> None:
        """One round: all checks at the same time, each bounded."""
        await asyncio.gather(*(self._one(name, check) for name, check in self._checks.items()))
        allowed = _FAILURES_TO_STOP if self._serving else 1
        await self._say(serving=all(count < allowed for count in self._failures.values()))

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        await self.servicer.enter_graceful_shutdown()

    async def _one(self, name: str, check: Check) -> None:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await check()
        except Exception as error:
            self._failures[name] += 1
            if self._failures[name] == 1:
                self._log.warning("dependency fails", dependency=name, error=type(error).__name__, message=str(error))
        else:
            if self._failures[name]:
                self._log.info("dependency answers again", dependency=name)
            self._failures[name] = 0

    async def _say(self, *, serving: bool) -> None:
        if serving is self._serving:
            return
        self._serving = serving
        for service in self._services:
            await self.servicer.set(service, _SERVING if serving else _NOT_SERVING)
        self._log.info("health", serving=serving)
