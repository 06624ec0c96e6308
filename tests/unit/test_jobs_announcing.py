"""Each event becomes a delivery to whoever wants it, once, whatever dies in between."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import SecretStr

from services.jobs.announcing import Announcer
from services.jobs.background import kept_going
from services.jobs.events import CollectionChange, Span, TenantEvent
from services.jobs.job import Assignment, JobType
from services.jobs.webhook import Delivery, Webhook, WebhookState, new_etag
from services.jobs.webhooks import DELIVERIES
from services.mesh.errors import EventsForgotten
from tests.jobs_fakes import Killed, Trap
from tests.webhooks_memory import Clock, MemoryWebhooks


@dataclass
class MemoryLog:
    """Fulfils EventLog, as far as following it goes."""

    kept: dict[str, list[TenantEvent]] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, topic: str, tenant: str = "acme", *, collection: str = "books", job: str = "") -> None:
        events = self.kept.setdefault(tenant, [])
        assignment = Assignment(tenant, job, "ann", JobType.IMPORT, collection, "uid-1") if job else None
        sequence = events[-1].sequence + 1 if events else 1
        events.append(TenantEvent(tenant, sequence, topic, datetime.now(UTC), collection, assignment))
        self.changed.set()

    async def read(self, tenant: str, after: int, limit: int) -> list[TenantEvent]:
        events = self.kept.get(tenant, [])
        if events and events[0].sequence > after + 1:
            raise EventsForgotten(f"events after {after} are not kept")
        return [each for each in events if each.sequence > after][:limit]

    async def span(self, tenant: str) -> Span:
        return Span(self.kept[tenant][0].sequence, self.kept[tenant][-1].sequence)

    async def news(self) -> AsyncIterator[frozenset[str]]:
        while True:
            self.changed.clear()
            yield frozenset(self.kept)
            await self.changed.wait()

    async def record(self, changes: Sequence[CollectionChange]) -> None:
        raise NotImplementedError

    async def rewind(self, seen: int, to: int) -> None:
        raise NotImplementedError

    async def recorded(self) -> int:
        raise NotImplementedError


@dataclass
class Rig:
    log: MemoryLog = field(default_factory=MemoryLog)
    outbox: MemoryWebhooks = field(default_factory=lambda: MemoryWebhooks(Clock()))
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def announcer(self, outbox: Any = None) -> Announcer:
        return Announcer(self.log, outbox or self.outbox, self.body, told=self.told.set)

    def body(self, event: TenantEvent) -> bytes:
        if event.topic == "collection.deleted":
            raise RuntimeError("cannot be written down")
        return f"{event.tenant} {event.sequence}".encode()

    async def add(self, webhook_id: str, *topics: str, tenant: str = "acme", collection: str = "") -> None:
        now = datetime.now(UTC)
        made = Webhook(
            tenant, webhook_id, "https://example.com/", SecretStr("s"), now, now, new_etag(), topics, collection
        )
        await self.outbox.add(made, 10)

    async def deliveries(self, webhook_id: str, tenant: str = "acme") -> list[Delivery]:
        query = DELIVERIES.query(order_by="sequence", page_size=100)
        return list((await self.outbox.list_deliveries(tenant, webhook_id, query)).items)

    async def topics(self, webhook_id: str, tenant: str = "acme") -> list[str]:
        return [each.topic for each in await self.deliveries(webhook_id, tenant)]


@pytest.fixture
def rig() -> Rig:
    return Rig()


async def test_an_event_is_delivered_to_who_wants_its_topic_of_its_collection(rig: Rig) -> None:
    await rig.add("all")
    await rig.add("jobs", "ingestion.*")
    await rig.add("films", collection="films")
    rig.log.add("collection.created")
    rig.log.add("ingestion.started", job="j")
    rig.log.add("document.indexed", collection="films", job="k")
    await rig.announcer().announce("acme")
    assert await rig.topics("all") == ["collection.created", "ingestion.started", "document.indexed"]
    assert await rig.topics("jobs") == ["ingestion.started"]
    assert await rig.topics("films") == ["document.indexed"]
    assert [each.lane for each in await rig.deliveries("all")] == ["collection:books", "job:j", "job:k"]
    assert [each.event_uid for each in await rig.deliveries("all")] == [each.uid for each in rig.log.kept["acme"]]


async def test_of_many_who_announce_at_once_each_event_is_announced_once(rig: Rig) -> None:
    await rig.add("w")
    for _ in range(700):
        rig.log.add("document.indexed", job="j")
    await asyncio.gather(*(rig.announcer().announce("acme") for _ in range(4)))
    page = await rig.outbox.list_deliveries("acme", "w", DELIVERIES.query())
    assert (page.total_size, (await rig.outbox.progress("acme"))[0]) == (700, 700)


@pytest.mark.parametrize("at", range(6))
async def test_whoever_dies_anywhere_is_followed_by_one_who_goes_on(rig: Rig, at: int) -> None:
    await rig.add("w")
    for _ in range(250):
        rig.log.add("document.indexed", job="j")
    trap = Trap(at)
    with pytest.raises(Killed):
        await rig.announcer(trap.on(rig.outbox, "progress", "record")).announce("acme")
    await rig.announcer().announce("acme")
    page = await rig.outbox.list_deliveries("acme", "w", DELIVERIES.query())
    assert page.total_size == 250


async def test_what_was_forgotten_before_it_was_announced_disables_with_the_reason(rig: Rig) -> None:
    await rig.add("w")
    for _ in range(9):
        rig.log.add("document.indexed", job="j")
    await rig.announcer().announce("acme")
    for _ in range(9):
        rig.log.add("document.indexed", job="j")
    del rig.log.kept["acme"][:12]
    await rig.announcer().announce("acme")
    found = await rig.outbox.get("acme", "w")
    assert found.state is WebhookState.DISABLED
    assert found.disabled_reason.startswith("events after 9 could not be delivered")
    assert len(await rig.deliveries("w")) == 9, "what waited before waits on"
    await rig.outbox.change("acme", "w", lambda each: replace(each, state=WebhookState.ENABLED, etag='"e"'))
    rig.log.add("document.indexed", job="j")
    await rig.announcer().announce("acme")
    assert [each.sequence for each in await rig.deliveries("w")][9:] == [19]


async def test_a_disabled_webhook_is_passed_by(rig: Rig) -> None:
    await rig.add("w")
    await rig.outbox.change("acme", "w", lambda each: replace(each, state=WebhookState.DISABLED, etag='"d"'))
    rig.log.add("document.indexed", job="j")
    await rig.announcer().announce("acme")
    assert (await rig.deliveries("w"), (await rig.outbox.progress("acme"))[0]) == ([], 1)


async def test_one_tenant_whose_events_cannot_be_written_holds_up_no_other(rig: Rig) -> None:
    for tenant in ("acme", "globex"):
        await rig.add("w", tenant=tenant)
    rig.log.add("collection.deleted", "acme")
    rig.log.add("document.indexed", "globex", job="j")
    async with kept_going("webhooks", rig.announcer().run):
        await rig.told.wait()
        rig.told.clear()
        assert await rig.topics("w", "globex") == ["document.indexed"]
        rig.log.add("document.failed", "globex", job="j")
        await rig.told.wait()
    assert await rig.topics("w", "globex") == ["document.indexed", "document.failed"]
    assert await rig.topics("w", "acme") == []
