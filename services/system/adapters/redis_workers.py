"""The workers, as they report in Redis."""

from collections.abc import Sequence
from typing import Any

from services.mesh.errors import DependencyUnavailable
from services.mesh.reports import ProcessReport, State
from services.mesh.worker_reports import WorkerReports


class RedisWorkers:
    """Fulfils Processes."""

    service = "worker"

    def __init__(self, redis: Any) -> None:
        self._reports = WorkerReports(redis)

    async def look(self) -> Sequence[ProcessReport]:
        try:
            return await self._reports.read()
        except DependencyUnavailable as error:
            return [ProcessReport(self.service, State.DOWN, f"not known: {error.message}")]
