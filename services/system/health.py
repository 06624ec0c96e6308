"""How the deployment is: every service asked at the same time, and what that makes of the whole."""

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from services.mesh.identity import Caller
from services.mesh.reports import ProcessReport, State
from services.system.operators import Operators
from services.system.ports import Processes

API_VERSION: Final = "v1"
# Whoever may ask may ask as often as they like: processes are looked at once in so long, for all who ask.
_FRESH_S: Final = 1.0
# Each way of asking has shorter bounds of its own; this one holds for those that do not.
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """A kind of processes, and each of them."""

    name: str
    state: State
    processes: tuple[ProcessReport, ...]


@dataclass(frozen=True, slots=True)
class DeploymentReport:
    """All of them.

    Attributes:
        services: Empty for who may not see them.
    """

    state: State
    version: str
    observe_time: datetime
    services: tuple[ServiceReport, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionReport:
    """What answers.

    Attributes:
        commit: Empty where it is not known, or not for who asks.
    """

    version: str
    api_version: str
    commit: str = ""


class Deployment:
    """Tells strangers and tenants how the whole is, and operators how each part is.

    Args:
        services: How to look at the processes of each service.
        vital: The services without which nothing can be searched.
    """

    def __init__(
        self,
        services: Sequence[Processes],
        operators: Operators,
        *,
        version: str,
        commit: str = "",
        vital: Collection[str] = ("retrieval",),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._services = services
        self._operators = operators
        self._version = version
        self._commit = commit
        self._vital = vital
        self._clock = clock
        self._looked: tuple[float, DeploymentReport] | None = None
        self._looking: asyncio.Task[DeploymentReport] | None = None

    async def health(self, who: Caller) -> DeploymentReport:
        """How it is, as of a second ago at most. One look serves all who ask meanwhile, whoever of them gives up."""
        report = await self._fresh()
        if self._operators.include(who):
            return report
        return DeploymentReport(report.state, report.version, report.observe_time)

    def what_runs(self, who: Caller) -> VersionReport:
        return VersionReport(self._version, API_VERSION, self._commit if self._operators.include(who) else "")

    async def _fresh(self) -> DeploymentReport:
        if self._looked and self._clock() - self._looked[0] < _FRESH_S:
            return self._looked[1]
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(self._looking)

    async def _look(self) -> DeploymentReport:
        try:
            services = await asyncio.gather(*(self._service(each) for each in self._services))
            found = sorted(services, key=lambda each: each.name)
            report = DeploymentReport(self._whole(found), self._version, datetime.now(UTC), tuple(found))
            self._looked = self._clock(), report
            return report
        finally:
            self._looking = None

    async def _service(self, processes: Processes) -> ServiceReport:
        try:
            async with asyncio.timeout(_LOOK_S):
                found = tuple(await processes.look())
        except TimeoutError:
            found = ()
        return ServiceReport(processes.service, _together([each.state for each in found]), found)

    def _whole(self, services: Sequence[ServiceReport]) -> State:
        if any(each.state is State.DOWN and each.name in self._vital for each in services):
            return State.DOWN
        whole = all(each.state is State.SERVING for each in services)
        return State.SERVING if whole else State.DEGRADED


def _together(states: Collection[State]) -> State:
    """Of processes any of which can do the work."""
    if all(each is State.DOWN for each in states):
        return State.DOWN
    return State.SERVING if all(each is State.SERVING for each in states) else State.DEGRADED
