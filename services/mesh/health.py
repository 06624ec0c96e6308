"""Health that can fail: what a process needs is checked over and over, and answered as grpc.health.v1."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from services.mesh.calls import current_call
from services.mesh.errors import DomainError
from services.mesh.reports import DependencyReport, State

# The method that tells how a whole deployment is; its answers over REST have a status that says so (envoy/health.lua).
HEALTH_PATH: Final = "/ragweave.v1.SystemService/GetHealth"

# What to ask grpc.health.v1 for to learn whether a process is alive: its event loop answers. Whether calls should be
# sent to it is what the server ("") and its services answer.
LIVENESS: Final = "liveness"

# Raises where the dependency cannot be used.
Check: TypeAlias = Callable[[], Awaitable[None]]

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_CHECK_TIMEOUT_S = 2.0
_FIRST_INTERVAL_S = 0.2
# One late answer on a busy machine must not take a service out of rotation.
_FAILURES_TO_STOP = 2


class Dependency:
    """What the looks at one dependency have found."""

    def __init__(self, name: str, check: Check, *, required: bool) -> None:
        self.name = name
        self._check = check
        self._required = required
        self._failures = 0
        self._passed = False
        self._response_s: float | None = None
        self._error = ""
        self._log = structlog.get_logger("mesh.health")

    @property
    def keeps_from_serving(self) -> bool:
        return self._required and self._fails

    @property
    def _fails(self) -> bool:
        return not self._passed or self._failures >= _FAILURES_TO_STOP

    def report(self) -> DependencyReport:
        return DependencyReport(
            self.name,
            State.DOWN if self._fails else State.SERVING,
            required=self._required,
            response_s=self._response_s,
            error=self._error,
        )

    async def look(self) -> None:
        """Checks it once, bounded."""
        began_s = time.perf_counter()
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT_S):
                await self._check()
        except Exception as error:
            self._failures += 1
            self._error = _said(error)
            if self._failures == 1:
                self._log.warning(
                    "dependency fails", dependency=self.name, error=type(error).__name__, reason=self._error
                )
        else:
            if self._failures:
                self._log.info("dependency answers again", dependency=self.name)
            self._passed, self._failures, self._error = True, 0, ""
        self._response_s = time.perf_counter() - began_s


class Readiness:
    """Checks the dependencies periodically and says SERVING while those that are required answer, for the server and
    each of its services.

    NOT_SERVING until the first round passed; after that a check must fail twice in a row. A process that lives answers
    SERVING for LIVENESS all the while, also while it drains.

    Args:
        services: Full names of the gRPC services served here; "" (the server) is always answered.
        required: What the process takes no calls without.
        optional: What it goes on without, if worse: told in reports, and no reason to leave rotation.
    """

    def __init__(
        self,
        services: Iterable[str],
        required: Mapping[str, Check],
        optional: Mapping[str, Check] = MappingProxyType({}),
        *,
        interval_s: float,
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._services = ("", *services)
        self._dependencies = [
            *(Dependency(name, check, required=True) for name, check in required.items()),
            *(Dependency(name, check, required=False) for name, check in optional.items()),
        ]
        self._interval_s = interval_s
        self._serving: bool | None = None
        self._draining = False
        self._served = False
        self._log = structlog.get_logger("mesh.health")

    async def start(self) -> None:
        """Answers NOT_SERVING for every service from now on, and that the process lives."""
        await self.servicer.set(LIVENESS, _SERVING)
        await self._say(serving=False)

    async def run(self) -> None:
        """Checks until cancelled; more often until it serves, since others wait for that."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval_s if self._served else min(_FIRST_INTERVAL_S, self._interval_s))

    async def check(self) -> None:
        """One round: all checks at the same time, each bounded."""
        await asyncio.gather(*(each.look() for each in self._dependencies))
        await self._say(serving=not any(each.keeps_from_serving for each in self._dependencies))

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        self._draining, self._serving = True, False
        await self._answer(_NOT_SERVING)

    def reports(self) -> list[DependencyReport]:
        """What the last round found."""
        return [each.report() for each in self._dependencies]

    @property
    def serving(self) -> bool:
        return bool(self._serving)

    @property
    def draining(self) -> bool:
        return self._draining

    async def _say(self, *, serving: bool) -> None:
        if serving is self._serving or self._draining:
            return
        self._serving = serving
        self._served |= serving
        await self._answer(_SERVING if serving else _NOT_SERVING)
        self._log.info("health", serving=serving)

    async def _answer(self, status: Any) -> None:
        for service in self._services:
            await self.servicer.set(service, status)


def tell_edge(state: State) -> None:
    """Has the edge answer the call being served, where it came by REST, with the status that the state stands for."""
    if call := current_call():
        call.headers.append(("x-health", state))


async def serving(channel: grpc.aio.Channel) -> None:
    """A check of the service at the other end of a channel. Raises where it does not take calls."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    if answer.status != _SERVING:
        raise NotServing


class NotServing(Exception):
    """A service says that it takes no calls."""


def _said(error: Exception) -> str:
    """Why a check failed, without what drivers say: that may hold addresses and passwords."""
    if isinstance(error, DomainError):
        return error.message
    if isinstance(error, TimeoutError):
        return f"no answer within {_CHECK_TIMEOUT_S:g} s"
    if isinstance(error, grpc.aio.AioRpcError):
        return f"answers {error.code().name}"
    return "takes no calls" if isinstance(error, NotServing) else type(error).__name__
