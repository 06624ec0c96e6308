"""The system's stores in memory: for tests, and the reference the database is held to."""

from collections.abc import Sequence
from datetime import datetime

from services.mesh.audit import AuditEvent
from services.mesh.lists import ListQuery, Page, paginate
from services.system.audit import event_fields


class MemoryAuditLog:
    """Fulfils AuditLog; nothing awaits, so every method is one step."""

    def __init__(self) -> None:
        self._events: dict[str, AuditEvent] = {}

    async def record(self, events: Sequence[AuditEvent]) -> None:
        for event in events:
            if event.code or event.event_id not in self._events:
                self._events[event.event_id] = event

    async def list_events(self, tenant: str, query: ListQuery) -> Page[AuditEvent]:
        return paginate((each for each in self._events.values() if each.tenant == tenant), query, event_fields)

    async def prune(self, before: datetime, limit: int) -> int:
        return self._drop([each for each in self._events.values() if each.event_time < before][:limit])

    async def erase(self, tenant: str, limit: int) -> int:
        return self._drop([each for each in self._events.values() if each.tenant == tenant][:limit])

    def _drop(self, events: Sequence[AuditEvent]) -> int:
        for event in events:
            del self._events[event.event_id]
        return len(events)
