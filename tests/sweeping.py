"""One sweep of a service's maintenance, for tests."""

from collections.abc import Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry

from services.mesh.maintenance import Maintenance, Step


class Upkeep(Protocol):
    @property
    def steps(self) -> Sequence[Step]: ...


async def sweep(upkeep: Upkeep) -> None:
    await Maintenance("test", upkeep.steps, interval_s=60, registry=CollectorRegistry()).sweep()
