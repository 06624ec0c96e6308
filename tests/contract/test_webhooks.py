"""Whatever keeps webhooks and their deliveries keeps the same promises."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.adapters.redis_job_store import RedisJobStore
from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.jobs.events import CollectionChange
from services.jobs.webhook import Delivery, DeliveryState, NewDelivery, Sent, Turn, Webhook, WebhookState
from services.jobs.webhooks import DELIVERIES
from services.mesh.errors import (
    AlreadyExists,
    DeliveryNotFound,
    EtagMismatch,
    FailedPrecondition,
    LeaseLost,
    RequestIdReused,
    TenantDeleted,
    WebhookNotFound,
)
from services.mesh.receipts import Receipt
from tests.jobs_store import Store, store_in
from tests.spans import new_traceparent
from tests.webhooks_memory import Clock, MemoryWebhooks

OK = Sent(DeliveryState.DELIVERED, 200)
LATER = Sent(DeliveryState.PENDING, 503, "answered 503", slot=1, retry_in_s=100)
DEAD = Sent(DeliveryState.DEAD, 500, "answered 500", slot=9)
KEY = Receipt("acme", "CreateWebhook", "r1", "digest")
BOUNDS: dict[str, Any] = {
    "lease_s": 30,
    "retention_s": 3600,
    "keep": 3,
    "most_waiting": 5,
    "of_hook": 2,
    "of_tenant": 3,
}


@dataclass
class Rig:
    store: RedisWebhooks | MemoryWebhooks
    clock: Clock

    async def happen(self, count: int) -> None:
        """So many events of acme, more than there were."""
        if isinstance(self.store, MemoryWebhooks):
            self.store.happened["acme"] = self.store.happened.get("acme", 0) + count
            return
        log = RedisEventLog(self.store._redis)
        first = await log.recorded() + 1
        changes = [
            CollectionChange(at, "acme", "collection.updated", self.clock.now, "books", b"")
            for at in range(first, first + count)
        ]
        await log.record(changes)

    async def add(self, tenant: str = "acme", webhook_id: str = "w") -> Webhook:
        return await self.store.add(hook(tenant, webhook_id, self.clock), 3)

    async def record(self, *deliveries: NewDelivery, tenant: str = "acme", lost: str = "") -> bool:
        after, _ = await self.store.progress(tenant)
        upto = max((each.sequence for each in deliveries), default=after + 1)
        return await self.store.record(tenant, after, upto, deliveries, lost=lost)

    async def take(self, slots: int = 10) -> list[Turn]:
        return list((await self.store.take(slots)).turns)

    async def listed(self, webhook_id: str = "w", **asked: Any) -> list[Delivery]:
        page = await self.store.list_deliveries("acme", webhook_id, DELIVERIES.query(**asked))
        return list(page.items)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(params=["memory", "redis"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    clock = Clock()
    if request.param == "memory":
        yield Rig(MemoryWebhooks(clock, **BOUNDS), clock)
    else:
        server: Store = request.getfixturevalue("server")
        async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
            yield Rig(RedisWebhooks(redis, clock=clock, **BOUNDS), clock)


def hook(tenant: str, webhook_id: str, clock: Clock) -> Webhook:
    return Webhook(
        tenant=tenant,
        id=webhook_id,
        uri="https://example.com/hook?a=1",
        secret=SecretStr("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        create_time=clock.now,
        update_time=clock.now,
        etag='"one"',
        topics=("ingestion.*", "collection.created"),
        collection_id="books",
        description="för alla",
    )


def event(sequence: int, lane: str = "job:1", webhook_id: str = "w") -> NewDelivery:
    return NewDelivery(webhook_id, sequence, lane, "document.indexed", f"uid-{sequence}", Clock().now, b'{"n": 1}')


def sequences(turns: list[Turn]) -> list[int]:
    return [turn.delivery.sequence for turn in turns]


async def test_a_webhook_reads_back_as_it_was_written(rig: Rig) -> None:
    made = replace(
        hook("acme", "w", rig.clock),
        old_secret=SecretStr("whsec_old"),
        old_secret_expire_time=rig.clock.now + timedelta(days=1),
    )
    assert await rig.store.add(made, 3) == made
    assert await rig.store.get("acme", "w") == made
    assert await rig.store.all("acme") == [made]
    assert await rig.store.all("globex") == []
    with pytest.raises(WebhookNotFound):
        await rig.store.get("globex", "w")


async def test_an_id_is_taken_once_and_a_tenant_has_so_many_at_most(rig: Rig) -> None:
    await rig.add()
    with pytest.raises(AlreadyExists):
        await rig.add()
    for webhook_id in ("v", "u"):
        rig.clock.advance(seconds=1)
        await rig.add(webhook_id=webhook_id)
    with pytest.raises(FailedPrecondition, match="as many as it may"):
        await rig.add(webhook_id="t")
    await rig.add("globex")
    assert [each.id for each in await rig.store.all("acme")] == ["w", "v", "u"]


async def test_a_request_that_comes_again_is_answered_as_it_was(rig: Rig) -> None:
    assert await rig.store.recall(KEY) is None
    made = await rig.store.add(hook("acme", "w", rig.clock), 3, KEY)
    await rig.store.change("acme", "w", lambda found: replace(found, description="other", etag='"two"'))
    assert await rig.store.recall(KEY) == made
    assert await rig.store.add(hook("acme", "other", rig.clock), 3, KEY) == made
    with pytest.raises(RequestIdReused):
        await rig.store.recall(replace(KEY, digest="other"))
    gone = Receipt("acme", "DeleteWebhook", "r1", "digest")
    removed = await rig.store.remove("acme", "w", lambda _: None, gone)
    assert await rig.store.recall(gone) == removed


async def test_a_delivery_says_at_each_attempt_which_call_it_came_of(rig: Rig) -> None:
    await rig.add()
    await rig.happen(2)
    await rig.record(replace(event(1), caused_by=new_traceparent(1)), event(2))
    for _ in range(2):
        [first] = await rig.take()
        assert first.caused_by == new_traceparent(1)
        await rig.store.finish(first, LATER)
        rig.clock.advance(seconds=LATER.retry_in_s)
    [first] = await rig.take()
    await rig.store.finish(first, OK)
    [second] = await rig.take()
    assert (second.delivery.sequence, second.caused_by) == (2, "")


async def test_of_many_who_change_it_at_once_each_sees_the_one_before(rig: Rig) -> None:
    await rig.add()

    def one_more(found: Webhook) -> Webhook:
        return replace(found, description=found.description + "x", etag=f'"{secrets.token_hex(4)}"')

    await asyncio.gather(*(rig.store.change("acme", "w", one_more) for _ in range(10)))
    assert (await rig.store.get("acme", "w")).description == "för alla" + 10 * "x"


async def test_a_change_or_a_removal_that_is_refused_changes_nothing(rig: Rig) -> None:
    made = await rig.add()

    def refuse(_: Webhook) -> Any:
        raise EtagMismatch("stale")

    with pytest.raises(EtagMismatch):
        await rig.store.change("acme", "w", refuse)
    with pytest.raises(EtagMismatch):
        await rig.store.remove("acme", "w", refuse)
    assert await rig.store.get("acme", "w") == made


async def test_what_is_removed_takes_its_deliveries_with_it(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1))
    [turn] = await rig.take()
    await rig.store.remove("acme", "w", lambda _: None)
    with pytest.raises(LeaseLost):
        await rig.store.finish(turn, OK)
    with pytest.raises(WebhookNotFound):
        await rig.listed()
    await rig.add()
    assert await rig.listed() == []
    assert await rig.take() == []


async def test_a_lane_is_sent_in_order_whatever_other_lanes_do(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1, "job:1"), event(2, "job:2"), event(3, "job:1"))
    first, other = await rig.take()
    assert (first.delivery.sequence, other.delivery.sequence) == (1, 2)
    assert (first.body, first.webhook.uri) == (b'{"n": 1}', "https://example.com/hook?a=1")
    await rig.store.finish(other, OK)
    assert await rig.take() == []
    await rig.store.finish(first, LATER)
    assert await rig.take() == []
    rig.clock.advance(seconds=100)
    [again] = await rig.take()
    assert (again.delivery.sequence, again.delivery.attempts, again.delivery.event_uid) == (1, 2, "uid-1")
    await rig.store.finish(again, OK)
    assert sequences(await rig.take()) == [3]


async def test_what_was_given_up_makes_way_for_the_next(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1), event(2))
    [turn] = await rig.take()
    await rig.store.finish(turn, DEAD)
    assert sequences(await rig.take()) == [2]
    [dead] = await rig.listed(filter="state = DEAD")
    assert (dead.sequence, dead.last_status, dead.last_error, dead.end_time) == (1, 500, "answered 500", rig.clock.now)


async def test_a_delivery_whose_sender_died_is_sent_again_and_the_dead_one_writes_nothing(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1))
    [lost] = await rig.take()
    assert (await rig.store.take(10)).more_in_s == 30
    rig.clock.advance(seconds=30)
    [again] = await rig.take()
    assert (again.delivery.event_uid, again.delivery.attempts) == ("uid-1", 2)
    with pytest.raises(LeaseLost):
        await rig.store.finish(lost, DEAD)
    await rig.store.finish(again, OK)
    with pytest.raises(LeaseLost):
        await rig.store.finish(again, OK)


async def test_events_become_deliveries_once_whoever_makes_them(rig: Rig) -> None:
    await rig.add()
    assert await rig.store.record("acme", 0, 2, [event(1), event(2)])
    assert not await rig.store.record("acme", 0, 2, [event(1), event(2)])
    assert (await rig.store.progress("acme"))[0] == 2
    assert await rig.store.record("acme", 2, 3, [])
    assert [each.sequence for each in await rig.listed()] == [2, 1]
    assert [each.state for each in await rig.listed()] == [DeliveryState.PENDING] * 2


async def test_a_webhook_is_sent_what_happens_after_it_was_made(rig: Rig) -> None:
    await rig.happen(3)
    await rig.add()
    assert (await rig.store.progress("acme"))[0] == 3, "of what was before, nobody is to be told"
    await rig.happen(2)
    await rig.add(webhook_id="v")
    assert await rig.store.record("acme", 3, 6, [event(at, "job:1", to) for to in ("w", "v") for at in (4, 5, 6)])
    assert [each.sequence for each in await rig.listed("w")] == [6, 5, 4]
    assert [each.sequence for each in await rig.listed("v")] == [6]


async def test_a_tenant_without_webhooks_is_not_behind_when_it_has_one_again(rig: Rig) -> None:
    await rig.add()
    await rig.store.remove("acme", "w", lambda _: None)
    await rig.happen(4)
    await rig.add()
    assert (await rig.store.progress("acme"))[0] == 4


async def test_one_receiver_has_so_many_at_a_time_and_so_has_a_tenant(rig: Rig) -> None:
    for webhook_id in ("w", "v"):
        await rig.add(webhook_id=webhook_id)
    await rig.add("globex")
    lanes = [f"job:{each}" for each in range(1, 4)]
    await rig.record(*(event(at, lane, to) for to in ("w", "v") for at, lane in enumerate(lanes, 1)))
    await rig.record(event(1, "job:1"), tenant="globex")
    taken = await rig.take()
    by_tenant = [turn.webhook.tenant for turn in taken]
    assert (by_tenant.count("acme"), by_tenant.count("globex")) == (3, 1)
    of_one = [turn.webhook.id for turn in taken if turn.webhook.tenant == "acme"]
    assert max(of_one.count("w"), of_one.count("v")) == 2
    assert await rig.take() == []
    await rig.store.finish(next(turn for turn in taken if turn.webhook.tenant == "acme"), OK)
    assert len(await rig.take()) == 1


async def test_tenants_have_turns(rig: Rig) -> None:
    for tenant in ("acme", "globex"):
        await rig.add(tenant)
    await rig.record(event(1, "job:1"), event(2, "job:2"))
    await rig.record(event(1, "job:1"), tenant="globex")
    assert {turn.webhook.tenant for turn in await rig.take(2)} == {"acme", "globex"}


async def test_a_disabled_webhook_is_sent_nothing_until_it_is_enabled_again(rig: Rig) -> None:
    made = await rig.add()
    await rig.record(event(1), event(2))
    [turn] = await rig.take()
    await rig.store.finish(turn, replace(LATER, status=410, disable="it wants no more"))
    found = await rig.store.get("acme", "w")
    assert (found.state, found.disabled_reason) == (WebhookState.DISABLED, "it wants no more")
    assert found.etag != made.etag
    await rig.record(event(3))
    rig.clock.advance(days=1)
    assert await rig.take() == []
    with pytest.raises(FailedPrecondition):
        await rig.store.replay("acme", "w", 1)
    await rig.store.change("acme", "w", lambda each: replace(each, state=WebhookState.ENABLED, etag='"e"'))
    assert sequences(await rig.take()) == [1]
    assert [each.sequence for each in await rig.listed()] == [2, 1], "what happened meanwhile is not delivered"


async def test_a_webhook_with_too_much_waiting_is_disabled_with_the_reason(rig: Rig) -> None:
    await rig.add()
    await rig.record(*(event(each) for each in range(1, 8)))
    found = await rig.store.get("acme", "w")
    assert (found.state, found.disabled_reason) == (WebhookState.DISABLED, "more than 5 deliveries wait for it")
    assert len(await rig.listed()) == 5


async def test_where_events_are_lost_every_webhook_of_the_tenant_is_disabled(rig: Rig) -> None:
    await rig.add()
    await rig.add(webhook_id="v")
    await rig.add("globex")
    assert await rig.record(lost="events 1 to 9 are no longer kept")
    assert {each.disabled_reason for each in await rig.store.all("acme")} == {"events 1 to 9 are no longer kept"}
    assert (await rig.store.get("globex", "w")).state is WebhookState.ENABLED


async def test_a_receiver_that_answers_again_after_a_while_is_sent_what_waits_at_once(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1, "job:1"), event(2, "job:2"))
    for turn in await rig.take():
        await rig.store.finish(turn, replace(LATER, retry_in_s=3600 * turn.delivery.sequence))
    assert (await rig.store.get("acme", "w")).failing_since == rig.clock.now
    rig.clock.advance(seconds=3600)
    [turn] = await rig.take()
    await rig.store.finish(turn, OK)
    assert (await rig.store.get("acme", "w")).failing_since is None
    [woken] = await rig.take()
    assert (woken.delivery.sequence, woken.early) == (2, True)


async def test_a_success_soon_after_a_failure_has_nothing_sent_before_its_time(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1, "job:1"), event(2, "job:2"))
    first, other = await rig.take()
    await rig.store.finish(first, LATER)
    await rig.store.finish(other, OK)
    assert await rig.take() == []


async def test_what_ended_is_sent_again_in_its_place_when_replayed(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1), event(2))
    [turn] = await rig.take()
    await rig.store.finish(turn, DEAD)
    dry = await rig.store.replay("acme", "w", 1, validate_only=True)
    assert [each.state for each in await rig.listed(filter="sequence = 1")] == [DeliveryState.DEAD]
    again = Receipt("acme", "ReplayDelivery", "r1", "digest")
    replayed = await rig.store.replay("acme", "w", 1, receipt=again)
    assert (replayed, replayed.state, replayed.attempts) == (dry, DeliveryState.PENDING, 0)
    assert sequences(await rig.take()) == [1]
    assert await rig.store.replay("acme", "w", 1, receipt=again) == replayed
    with pytest.raises(RequestIdReused):
        await rig.store.replay("acme", "w", 1, receipt=replace(again, digest="other"))


async def test_what_waits_for_its_next_attempt_is_sent_at_once_when_replayed(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1), event(2))
    [turn] = await rig.take()
    being_sent = await rig.store.replay("acme", "w", 1)
    assert being_sent.attempts == 1
    await rig.store.finish(turn, LATER)
    await rig.store.replay("acme", "w", 2)
    assert await rig.take() == [], "its turn comes after the one before it"
    await rig.store.replay("acme", "w", 1)
    [again] = await rig.take()
    assert (again.delivery.sequence, again.delivery.attempts, again.delivery.slot) == (1, 1, 0)


async def test_there_is_nothing_to_replay_of_what_is_not_there(rig: Rig) -> None:
    await rig.add()
    await rig.record(event(1))
    for tenant, webhook_id, sequence in (("acme", "w", 2), ("acme", "v", 1), ("globex", "w", 1)):
        with pytest.raises(DeliveryNotFound):
            await rig.store.replay(tenant, webhook_id, sequence)


async def test_ended_deliveries_are_forgotten_by_age_and_by_number(rig: Rig) -> None:
    await rig.add()
    for at in range(1, 6):
        await rig.record(event(at))
        [turn] = await rig.take()
        await rig.store.finish(turn, OK if at % 2 else DEAD)
        rig.clock.advance(seconds=1)
    assert [each.sequence for each in await rig.listed()] == [5, 4, 3, 2, 1]
    for at in range(6, 8):
        await rig.record(event(at))
        [turn] = await rig.take()
        await rig.store.finish(turn, OK)
    assert [each.sequence for each in await rig.listed()] == [7, 6, 5, 4, 2]
    rig.clock.advance(hours=1)
    await rig.record(event(8))
    assert [each.sequence for each in await rig.listed()] == [8]


async def test_deliveries_are_listed_in_pages_newest_first_or_oldest(rig: Rig) -> None:
    await rig.add()
    await rig.record(*(event(each) for each in range(1, 6)))
    query = DELIVERIES.query(page_size=2)
    page = await rig.store.list_deliveries("acme", "w", query)
    assert ([each.sequence for each in page.items], page.total_size) == ([5, 4], 5)
    following = await rig.store.list_deliveries(
        "acme", "w", DELIVERIES.query(page_size=2, page_token=page.next_page_token)
    )
    assert [each.sequence for each in following.items] == [3, 2]
    assert [each.sequence for each in await rig.listed(order_by="sequence", page_size=3)] == [1, 2, 3]
    assert [each.sequence for each in await rig.listed(filter="sequence > 3 AND topic = document.indexed")] == [5, 4]


async def test_an_erased_tenant_leaves_nothing_and_gets_nothing(server: Store) -> None:
    clock = Clock()
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        jobs, rig = RedisJobStore(redis, retention_s=1), Rig(RedisWebhooks(redis, clock=clock, **BOUNDS), clock)
        for tenant in ("acme", "globex"):
            await rig.add(tenant)
            await rig.record(event(1), event(2, "job:2"), tenant=tenant)
        [turn] = [each for each in await rig.take(2) if each.webhook.tenant == "acme"]
        assert (await jobs.erase("acme"))[0] > 5
        with pytest.raises(LeaseLost):
            await rig.store.finish(turn, OK)
        with pytest.raises(TenantDeleted):
            await rig.add()
        assert await rig.store.record("acme", 0, 3, [event(3)])
        rig.clock.advance(minutes=1)
        assert {turn.webhook.tenant for turn in await rig.take()} == {"globex"}
        assert not await redis.client.keys(redis.key("acme", "*"))
        await jobs.admit("acme")
        assert (await rig.add()).name == "webhooks/w"
        assert await rig.take() == []


async def test_nothing_is_left_of_webhooks_that_were_removed(server: Store) -> None:
    clock = Clock()
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        rig = Rig(RedisWebhooks(redis, clock=clock, **BOUNDS), clock)
        await rig.add()
        await rig.record(*(event(each, f"job:{each}") for each in range(1, 4)))
        for turn in await rig.take():
            await rig.store.finish(turn, OK)
        await rig.take()
        await rig.store.remove("acme", "w", lambda _: None)
        left = [key.decode() for key in await redis.client.keys(redis.key("acme", "*")) if b":once:" not in key]
        assert left == [redis.key("acme", "hookread")]
        assert not await redis.client.exists(redis.key("", "")[:-2] + "hooktenants")
