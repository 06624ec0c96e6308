"""How workers are, which serve no gRPC: each writes its report into the store now and then, where system reads it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from ragweave.v1.health_pb2 import Health
from services.mesh.breakers import breaker_of
from services.mesh.convert_reports import process_from, process_to
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import REDIS, UNANSWERED, answering, open_redis
from services.mesh.reports import ProcessReport, State
from services.mesh.settings import MeshSettings
from services.mesh.this_process import ThisProcess

# Ids of all workers; the report of each is at the key with its id after a colon.
KEY: Final = "rw:workers"
# After so long without a report a worker is taken to be gone for good.
KEPT_S: Final = 600
_EVERY_S: Final = 5.0
# Two reports may be late or lost.
SILENT_S: Final = 3 * _EVERY_S
# Less than a caller of GetHealth waits.
_TIMEOUT_S: Final = 0.7
_ID_BYTES: Final = 253


@asynccontextmanager
async def reporting(process: ThisProcess, settings: MeshSettings, *, every_s: float = _EVERY_S) -> AsyncIterator[None]:
    """The worker reports inside the block, and is forgotten after it. A store that is away is tried again."""
    async with open_redis(settings.redis_url, connections=1) as redis:
        worker = WorkerReports(redis)
        reporting = asyncio.create_task(_report(process, worker, every_s))
        try:
            yield
        finally:
            reporting.cancel()
            with suppress(asyncio.CancelledError):
                await reporting
            with suppress(DependencyUnavailable, *UNANSWERED):
                await worker.forget((await process.report()).name)


async def _report(process: ThisProcess, worker: "WorkerReports", every_s: float) -> None:
    log, told = structlog.get_logger("mesh.workers"), False
    while True:
        try:
            await worker.write(await process.report())
            told = False
        except (DependencyUnavailable, *UNANSWERED) as error:
            if not told:
                log.warning("report cannot be written", error=type(error).__name__)
            told = True
        await asyncio.sleep(every_s)


class WorkerReports:
    """The workers' reports. How old each is, is told by the store's clock alone.

    Every method raises DependencyUnavailable where the store does not answer.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._breaker = breaker_of(REDIS)

    async def write(self, report: ProcessReport) -> None:
        name = _id(report.name)
        async with self._answering():
            pipeline = self._redis.pipeline()
            pipeline.sadd(KEY, name)
            pipeline.set(f"{KEY}:{name}", process_to(report).SerializeToString(), ex=KEPT_S)
            await pipeline.execute()

    async def forget(self, name: str) -> None:
        async with self._answering():
            pipeline = self._redis.pipeline()
            pipeline.srem(KEY, _id(name))
            pipeline.delete(f"{KEY}:{_id(name)}")
            await pipeline.execute()

    async def read(self) -> Sequence[ProcessReport]:
        """What each worker last said, by name; DOWN where that is too long ago."""
        async with self._answering():
            names = sorted(name.decode() for name in await self._redis.smembers(KEY))
            pipeline = self._redis.pipeline()
            for name in names:
                pipeline.get(f"{KEY}:{name}")
                pipeline.pttl(f"{KEY}:{name}")
            answers = await pipeline.execute() if names else []
            gone = [name for name, content in zip(names, answers[::2], strict=True) if content is None]
            if gone:
                await self._redis.srem(KEY, *gone)
        return [
            _read(content, KEPT_S - left_ms / 1000)
            for content, left_ms in zip(answers[::2], answers[1::2], strict=True)
            if content is not None
        ]

    def _answering(self) -> AbstractAsyncContextManager[None]:
        return answering("the store of the workers' reports", self._breaker, timeout_s=_TIMEOUT_S)


def _id(name: str) -> str:
    return name[:_ID_BYTES]


def _read(content: bytes, age_s: float) -> ProcessReport:
    report = process_from(Health.Process.FromString(content))
    silent = age_s > SILENT_S
    return replace(
        report,
        state=State.DOWN if silent else report.state,
        error=f"silent for {age_s:.0f} s" if silent else report.error,
        response_s=max(0.0, age_s),
    )
