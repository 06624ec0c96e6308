"""Watching what happens in a tenant: any number of watchers, and one reader of news for all of them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from services.jobs.events import TenantEvent, Topics
from services.jobs.ports_events import EventLog
from services.jobs.streams import Ended, Streams
from services.jobs.visibility import item_for
from services.mesh.identity import Caller

_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Passed:
    """Up to that sequence, there was nothing to send."""

    sequence: int


@dataclass(slots=True)
class _Tenant:
    """A tenant with watchers. Its turn moves on when something has happened in it."""

    watchers: int = 0
    turn: int = 0
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self) -> None:
        self.turn += 1
        self.moved.set()
        self.moved = asyncio.Event()

    async def beyond(self, turn: int) -> None:
        """Once its turn is another."""
        while self.turn == turn:
            await self.moved.wait()


class Events:
    """What happened in each tenant, for those of the tenant.

    A watcher holds no more than a page of events, shared with whoever reads the same one, however slow it is.
    """

    def __init__(self, log: EventLog, streams: Streams) -> None:
        self._log = log
        self._streams = streams
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self._pages: dict[tuple[str, int, int], asyncio.Task[list[TenantEvent]]] = {}

    async def run(self) -> None:
        """Tells watchers of what is new, without end. Raises DependencyUnavailable; to be begun again then."""
        async for tenants in self._log.news():
            for tenant in tenants & self._tenants.keys():
                self._tenants[tenant].move()

    async def watch(
        self, who: Caller, topics: Sequence[str], collection_id: str, after: int, timeout_s: float | None
    ) -> AsyncGenerator[TenantEvent | Passed | Ended, None]:
        """The events of the caller's tenant after that sequence, as they come, then how the stream ended.

        Args:
            topics: As in Topics; all where empty.
            collection_id: Of which collection; of all where empty.
            after: 0 for all that are kept, -1 for none of them.

        Raises:
            InvalidArgument: A topic that does not exist.
            EventsForgotten: Events after that sequence are not kept any more; before anything else.
        """
        wanted = Topics(topics)
        start = (await self._log.span(who.tenant)).start(after)
        if after < 0:
            yield Passed(start)  # to go on from there, should the stream be cut before anything happens
        events = self._events(who, wanted, collection_id, start)
        async with aclosing(self._streams.told(events, start, timeout_s)) as told:
            async for each in told:
                yield each

    async def _events(
        self, who: Caller, wanted: Topics, collection_id: str, after: int
    ) -> AsyncGenerator[TenantEvent | Passed, None]:
        tenant = self._tenants[who.tenant]
        tenant.watchers += 1
        told = after
        try:
            while True:
                turn = tenant.turn
                page = await self._page(who.tenant, after, turn)
                for event in page:
                    after = event.sequence
                    wants = event.topic in wanted and collection_id in ("", event.collection_id)
                    if wants and _may_see(who, event):
                        told = after
                        yield _seen(who, event)
                if after - told >= _PAGE:
                    told = after
                    yield Passed(after)
                if len(page) < _PAGE:
                    await tenant.beyond(turn)
        finally:
            tenant.watchers -= 1
            if not tenant.watchers:
                del self._tenants[who.tenant]

    async def _page(self, tenant: str, after: int, turn: int) -> list[TenantEvent]:
        """Events after that sequence, read once for all who want them in this turn."""
        key = tenant, after, turn
        reading = self._pages.get(key)
        if reading is None:
            self._pages[key] = reading = asyncio.create_task(self._log.read(tenant, after, _PAGE))

            def read(task: "asyncio.Task[list[TenantEvent]]") -> None:
                del self._pages[key]
                if not task.cancelled():
                    task.exception()  # those who wait for it are told; there may be nobody

            reading.add_done_callback(read)
        return await asyncio.shield(reading)


def _may_see(who: Caller, event: TenantEvent) -> bool:
    return not event.changed_collection or "collections.read" in who.scopes


def _seen(who: Caller, event: TenantEvent) -> TenantEvent:
    return replace(event, item=event.item and item_for(who, event.item))
