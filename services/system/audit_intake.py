"""Brings audit events from the stream into the log, and lets old ones go."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable
from services.mesh.maintenance import Step
from services.system.ports import AuditLog, AuditStream

_PAUSE_S: Final = 0.5
# Events that come within this time are recorded together: one alone costs as much as fifty.
_GATHER_S: Final = 0.2
_PRUNE_EVERY_S: Final = 3600.0
_PRUNED_AT_ONCE: Final = 1000


class AuditIntake:
    """Takes from the stream, records, then settles, so that an event is in one of the two whatever dies in between.

    Any number of processes may do so at once. An event that comes twice is recorded once.

    Args:
        retention: Events older than this are dropped.
    """

    def __init__(
        self,
        stream: AuditStream,
        log: AuditLog,
        *,
        retention: timedelta,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._stream = stream
        self._audit_log = log
        self._retention = retention
        self._clock = clock
        self._log = structlog.get_logger("system.audit")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes in inside the block."""
        taking = asyncio.create_task(self._run())
        try:
            yield
        finally:
            taking.cancel()
            with suppress(asyncio.CancelledError):
                await taking

    @property
    def steps(self) -> Sequence[Step]:
        """The audit log's maintenance."""
        return (Step("drop old audit events", self.prune, every_s=_PRUNE_EVERY_S),)

    async def take_in(self) -> int:
        """One step: what the stream has now, recorded and settled; returns how many entries that were."""
        taken = await self._stream.take()
        for each in taken:
            if each.event is None:
                self._log.error("an audit event cannot be read", entry=each.entry_id, content=repr(each.content))
        if taken:
            await self._record([each.event for each in taken if each.event])
            await self._stream.settle([each.entry_id for each in taken])
        return len(taken)

    async def prune(self) -> int:
        """Drops what is older than the retention, a part at a time; returns how many events that were."""
        before = self._clock() - self._retention
        dropped = 0
        while count := await self._audit_log.prune(before, _PRUNED_AT_ONCE):
            dropped += count
        return dropped

    async def _record(self, events: Sequence[AuditEvent]) -> None:
        try:
            await self._audit_log.record(events)
        except DependencyUnavailable:
            raise
        except Exception:
            # One that the database cannot hold must not keep back all that come after it.
            for event in events:
                await self._record_alone(event)

    async def _record_alone(self, event: AuditEvent) -> None:
        try:
            await self._audit_log.record([event])
        except DependencyUnavailable:
            raise
        except Exception:
            self._log.exception("an audit event cannot be recorded", audit_event=repr(event))

    async def _run(self) -> None:
        while True:
            try:
                if await self.take_in():
                    await asyncio.sleep(_GATHER_S)
            except DependencyUnavailable as error:
                self._log.warning("audit events wait in their stream", reason=error.message)
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                self._log.exception("audit events wait in their stream")
                await asyncio.sleep(_PAUSE_S)
