"""The way of audit events from every process to the system service: a stream in Redis, written ahead."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import structlog

from services.mesh.audit import AuditEvent, packed
from services.mesh.breakers import breaker_of
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import JUDGED, REDIS, UNANSWERED, open_redis
from services.mesh.settings import MeshSettings

STREAM: Final = "rw:audit"
EVENT: Final = "event"

# How long a mutation waits for its event to be on disk; a store that takes longer is as good as away.
_TIMEOUT_S: Final = 1.0
_BATCH: Final = 256
_PAUSE_S: Final = 0.2
_LAST_CHANCE_S: Final = 2.0


@dataclass(eq=False, slots=True)
class _Waiting:
    """An event that is not in the stream yet, and whoever waits for that."""

    event: AuditEvent
    written: "asyncio.Future[bool]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class AuditTrail:
    """Fulfils Trail. What comes while a write is under way shares the next one, and with it the store's fsync.

    While the store does not answer, events wait in memory and are written when it does. Each is logged as well, as a
    line `audit` at warning, so that a process that dies first leaves them there. Cancelling a call never undoes one.

    Args:
        required: Whether `begin` refuses what cannot be written now.
        buffer: Events that may wait; beyond that the oldest are in the log alone.
    """

    def __init__(self, client: Any, *, required: bool, buffer: int) -> None:
        self._redis = client
        self._breaker = breaker_of(REDIS)
        self._required = required
        self._buffer = buffer
        self._waiting: deque[_Waiting] = deque()
        self._wake = asyncio.Event()
        self._answers = True
        self._log = structlog.get_logger("mesh.audit")

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: MeshSettings) -> AsyncIterator[Self]:
        """The trail of this process, whose store need not be up; what waits at the end gets a last chance."""
        async with open_redis(settings.redis_url, connections=1, repeats=1) as client:
            trail = cls(client, required=settings.audit_required, buffer=settings.audit_buffer)
            writing = asyncio.create_task(trail._write())
            try:
                yield trail
            finally:
                await trail._last_chance()
                writing.cancel()
                with suppress(asyncio.CancelledError):
                    await writing

    async def begin(self, event: AuditEvent) -> None:
        if not await self._put(event) and self._required:
            raise DependencyUnavailable(
                "the audit log does not answer, and nothing is changed without it", retry_after_s=1.0, service="redis"
            )

    async def end(self, event: AuditEvent) -> None:
        await self._put(event)

    async def _put(self, event: AuditEvent) -> bool:
        """Whether the event is on disk; where not, it is logged and waits."""
        waiting = _Waiting(event)
        if len(self._waiting) >= self._buffer:
            self._waiting.popleft()
        self._waiting.append(waiting)
        self._wake.set()
        written = False
        if self._answers:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TIMEOUT_S):
                    written = await asyncio.shield(waiting.written)
        if not written:
            self._log.warning("audit", **{**asdict(event), "event_time": event.event_time.isoformat()})
        return written

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            if await self._write_batch():
                if not self._waiting:
                    self._wake.clear()
            else:
                await asyncio.sleep(_PAUSE_S)

    async def _write_batch(self) -> bool:
        batch = [each for each, _ in zip(self._waiting, range(_BATCH), strict=False)]
        pipeline = self._redis.pipeline(transaction=False)
        for each in batch:
            pipeline.xadd(STREAM, {EVENT: packed(each.event)})
        try:
            with self._breaker.asking(JUDGED):
                async with asyncio.timeout(_TIMEOUT_S):
                    await pipeline.execute()
        except (DependencyUnavailable, *UNANSWERED) as error:
            self._answered(False, error)
            return False
        self._answered(True)
        for each in batch:
            # The oldest may have given way to others meanwhile.
            if self._waiting and self._waiting[0] is each:
                self._waiting.popleft()
            if not each.written.done():
                each.written.set_result(True)
        return True

    def _answered(self, answers: bool, error: BaseException | None = None) -> None:
        if answers is not self._answers:
            if answers:
                self._log.info("the audit trail's store answers again", waiting=len(self._waiting))
            else:
                self._log.error("the audit trail's store does not answer", error=type(error).__name__)
        self._answers = answers
        if not answers:
            for each in self._waiting:
                if not each.written.done():
                    each.written.set_result(False)

    async def _last_chance(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CHANCE_S):
                while self._answers and self._waiting:
                    await asyncio.wait([self._waiting[-1].written])
        if self._waiting:
            self._log.error("audit events are in the log alone", events=len(self._waiting))
