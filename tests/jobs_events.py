"""An event log in memory, and changes of collections to write into logs."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from services.jobs.events import CollectionChange, Span, TenantEvent

TIME = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class MemoryEventLog:
    """Events in lists; `most` of a tenant's are kept."""

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._events: dict[str, list[TenantEvent]] = defaultdict(list)
        self._recorded = 0
        self._changed = asyncio.Condition()
        self._turns: dict[str, int] = {}
        self.reads = 0

    async def happened(self, event: TenantEvent) -> TenantEvent:
        """Writes an event under the next sequence of its tenant."""
        events = self._events[event.tenant]
        event = replace(event, sequence=len(events) + 1)
        events.append(event)
        async with self._changed:
            self._turns[event.tenant] = max(self._turns.values(), default=0) + 1
            self._changed.notify_all()
        return event

    async def read(self, tenant: str, after: int, limit: int) -> list[TenantEvent]:
        self.reads += 1
        span = await self.span(tenant)
        if not span.first - 1 <= after <= span.last:
            raise span.missed(after)
        return self._events[tenant][after : after + limit]

    async def span(self, tenant: str) -> Span:
        last = len(self._events[tenant])
        return Span(max(1, last - self._most + 1), last)

    async def news(self) -> AsyncIterator[frozenset[str]]:
        turn = 0
        while True:
            async with self._changed:
                while not (told := frozenset(tenant for tenant, each in self._turns.items() if each > turn)):
                    await self._changed.wait()
                turn = max(self._turns.values())
            yield told

    async def record(self, changes: Sequence[CollectionChange]) -> None:
        for change in changes:
            if change.sequence > self._recorded:
                self._recorded = change.sequence
                await self.happened(recorded_as(change))

    async def rewind(self, seen: int, to: int) -> None:
        if self._recorded == seen:
            self._recorded = to

    async def recorded(self) -> int:
        return self._recorded


def change(sequence: int, tenant: str = "acme", topic: str = "collection.updated") -> CollectionChange:
    """A change of the collection books."""
    return CollectionChange(sequence, tenant, topic, TIME, "books", f"books as of {sequence}".encode())


def recorded_as(change: CollectionChange, sequence: int = 0) -> TenantEvent:
    """The event that a change is."""
    return TenantEvent(
        change.tenant,
        sequence,
        change.topic,
        change.time,
        change.collection_id,
        changed_collection=change.collection,
    )
