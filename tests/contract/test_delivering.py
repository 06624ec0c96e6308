"""What webhooks are sent, in which order, and what outages and deaths do to that; over each store."""

import asyncio
import random
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.jobs.adapters.web import HttpWeb
from services.jobs.background import kept_going
from services.jobs.ports_webhooks import Turns
from services.jobs.webhook import DeliveryState, Sent, Turn, WebhookState
from services.jobs.webhooks import DELIVERIES
from services.mesh.errors import DependencyUnavailable
from tests.hostile_urls import ADDRESSES
from tests.jobs_store import Store, store_in
from tests.web_site import LOCAL, answer, site
from tests.webhooks_memory import Clock, MemoryWebhooks
from tests.webhooks_rig import Deliveries

GONE = "its receiver answered 410: it wants no more"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(params=["memory", "redis"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Deliveries]:
    clock = Clock()
    if request.param == "memory":
        yield Deliveries(MemoryWebhooks(clock), clock)
    else:
        server: Store = request.getfixturevalue("server")
        async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
            yield Deliveries(RedisWebhooks(redis, clock=clock), clock)


async def state_of(rig: Deliveries, sequence: int) -> tuple[DeliveryState, int, int, str]:
    page = await rig.store.list_deliveries("acme", "w", DELIVERIES.query(filter=f"sequence = {sequence}"))
    [found] = page.items
    return found.state, found.attempts, found.last_status, found.last_error


async def test_events_are_delivered_once_each_and_in_the_order_of_their_job(rig: Deliveries) -> None:
    uri = await rig.add()
    lanes = [f"job:{each % 7}" for each in range(100)]
    await rig.happen(*lanes)
    await rig.deliverer(slots=16).deliver()
    assert sorted(each.sequence for each in rig.web.tried) == list(range(1, 101))
    assert all(each.message_id == f"uid-{each.sequence}" for each in rig.web.got)
    for lane in set(lanes):
        got = rig.web.sequences(uri, lane)
        assert got == sorted(got)


async def test_a_receiver_that_is_down_for_a_day_gets_everything_in_order_once_it_is_up(rig: Deliveries) -> None:
    """Every half hour of the day something happens, in jobs that come and go; another receiver is always up."""
    down, up = await rig.add(webhook_id="w"), await rig.add(webhook_id="up")
    rig.web.answers[down] = None
    chance = random.Random(7)
    deliverer = rig.deliverer(chance=chance.random)
    happened = []
    for step in range(48):
        happened += await rig.happen(f"job:{step // 10}", f"job:{step // 10}", "collection:books")
        await deliverer.deliver()
        rig.clock.advance(minutes=30)
        if step == 30:
            rig.web.answers[down] = 503
    assert (len(happened), rig.web.sequences(down, "collection:books")) == (3 * 48, [])
    assert {each.sequence for each in rig.web.got if each.uri == up} == set(happened), "the other waited for nothing"
    tries = len([each for each in rig.web.tried if each.uri == down])
    assert tries < 6 * 10, "a lane is tried by its schedule, not at each event"

    rig.web.answers[down] = 200
    rig.clock.advance(hours=10)  # by then some lane had its turn; all others follow at once
    await deliverer.deliver()
    got = [each for each in rig.web.got if each.uri == down]
    assert sorted(each.sequence for each in got) == happened
    for lane in {each.lane for each in got}:
        assert all(one < other for one, other in pairwise(rig.web.sequences(down, lane)))
    assert (await rig.store.get("acme", "w")).state is WebhookState.ENABLED


async def test_a_delivery_is_given_up_at_the_end_of_its_schedule_and_its_lane_goes_on(rig: Deliveries) -> None:
    uri = await rig.add()
    rig.web.answers[uri] = 500
    await rig.happen("job:1", "job:1")
    deliverer = rig.deliverer()
    started = rig.clock.now
    while (await state_of(rig, 1))[0] is DeliveryState.PENDING:
        await deliverer.deliver()
        more_in_s = (await rig.store.take(0)).more_in_s
        rig.clock.advance(seconds=more_in_s or 0)
    assert await state_of(rig, 1) == (DeliveryState.DEAD, 10, 500, "answered 500")
    assert timedelta(days=2) < rig.clock.now - started < timedelta(days=4)
    assert {each.sequence for each in rig.web.tried[:10]} == {1}
    rig.web.answers[uri] = 204
    await rig.store.replay("acme", "w", 1)
    rig.clock.advance(days=1)
    await deliverer.deliver()
    assert rig.web.sequences(uri, "job:1") == [1, 2]
    assert (await state_of(rig, 1))[:3] == (DeliveryState.DELIVERED, 1, 204)


async def test_a_receiver_that_answers_410_is_sent_no_more(rig: Deliveries) -> None:
    uri = await rig.add()
    rig.web.answers[uri] = 410
    await rig.happen("job:1", "job:2")
    await rig.deliverer(slots=1).deliver()
    found = await rig.store.get("acme", "w")
    assert (found.state, found.disabled_reason) == (
        WebhookState.DISABLED,
        GONE,
    )
    assert len(rig.web.tried) == 1
    await rig.happen("job:3")
    rig.clock.advance(days=1)
    await rig.deliverer().deliver()
    assert len(rig.web.tried) == 1


async def test_a_receiver_that_fails_for_days_is_disabled_so_that_nothing_grows(rig: Deliveries) -> None:
    uri = await rig.add()
    rig.web.answers[uri] = None
    for day in range(8):
        await rig.happen(f"job:{day}")
        await rig.deliverer().deliver()
        rig.clock.advance(days=1)
    found = await rig.store.get("acme", "w")
    assert found.state is WebhookState.DISABLED
    assert found.disabled_reason.startswith("no delivery succeeded since 20")
    page = await rig.store.list_deliveries("acme", "w", DELIVERIES.query())
    assert page.total_size == 6


async def test_a_slow_receiver_of_one_tenant_delays_no_other(rig: Deliveries) -> None:
    """It hangs for as long as the test lasts, with more waiting for it than there are places at all."""
    slow = [await rig.add("acme", f"slow-{each}") for each in range(8)]
    other, same = await rig.add("globex", "w"), await rig.add("initech", "w")
    for uri in slow:
        rig.web.gates[uri] = asyncio.Event()
    await rig.happen(*(f"job:{each}" for each in range(20)))
    async with kept_going("webhooks", rig.deliverer(slots=20).run):
        while len(rig.web.tried) < 16:
            rig.web.came.clear()
            await rig.web.came.wait()
        for tenant in ("globex", "initech"):
            await rig.happen(*("job:1" for _ in range(10)), tenant=tenant)
        while len(rig.web.got) < 20:
            rig.web.came.clear()
            await rig.web.came.wait()
            await asyncio.sleep(0)
        assert {each.uri for each in rig.web.got} == {other, same}
        assert len([each for each in rig.web.tried if each.uri in slow]) == 16, "so many of one tenant at a time"
        assert max(sum(each.uri == uri for each in rig.web.tried) for uri in slow) <= 4


async def test_what_was_being_sent_when_the_process_ended_is_sent_again_under_the_same_id(rig: Deliveries) -> None:
    uri = await rig.add()
    await rig.happen("job:1", "job:1")
    rig.web.gates[uri] = asyncio.Event()
    async with kept_going("webhooks", rig.deliverer().run):
        await rig.web.came.wait()
    rig.web.gates.clear()
    await rig.deliverer().deliver()
    assert rig.web.got == []
    rig.clock.advance(minutes=1)
    await rig.deliverer().deliver()
    assert [each.message_id for each in rig.web.tried] == ["uid-1", "uid-1", "uid-2"]
    assert rig.web.sequences(uri, "job:1") == [1, 2]


async def test_an_outcome_is_written_down_as_soon_as_the_store_answers_again(rig: Deliveries) -> None:
    uri = await rig.add()
    await rig.happen("job:1", "job:1")
    await rig.deliverer(outbox=Forgetful(rig.store)).deliver()
    assert rig.web.sequences(uri, "job:1") == [1, 2]
    assert (await state_of(rig, 2))[:2] == (DeliveryState.DELIVERED, 1)


class Forgetful:
    """An outbox that does not answer the first time it is told of an outcome."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def finish(self, turn: Turn, sent: Sent) -> None:
        if not self._told:
            self._told = True
            raise DependencyUnavailable("the store does not answer")
        await self._store.finish(turn, sent)


async def test_who_slept_through_half_of_the_lease_sends_nothing(rig: Deliveries) -> None:
    await rig.add()
    await rig.happen("job:1")
    await rig.deliverer(outbox=Sleepy(rig.store)).deliver()
    assert rig.web.tried == []
    rig.clock.advance(minutes=1)
    await rig.deliverer().deliver()
    assert len(rig.web.got) == 1


class Sleepy:
    """An outbox whose answer comes when more than half of the lease is over."""

    def __init__(self, store: Any) -> None:
        self._store = store

    async def take(self, slots: int) -> Turns:
        taken = await self._store.take(slots)
        await asyncio.sleep(0.01)
        return Turns([replace(turn, lease_s=0.02) for turn in taken.turns], taken.more_in_s)


async def test_two_processes_never_send_out_of_order(rig: Deliveries) -> None:
    uri = await rig.add()
    await rig.happen(*("job:1" for _ in range(30)), *("job:2" for _ in range(30)))
    await asyncio.gather(*(rig.deliverer(slots=3).deliver() for _ in range(4)))
    await rig.deliverer().deliver()
    assert rig.web.sequences(uri, "job:1") == list(range(1, 31))
    assert rig.web.sequences(uri, "job:2") == list(range(31, 61))
    assert len(rig.web.tried) == 60


async def test_no_webhook_reaches_what_is_not_public_whatever_its_name_stands_for() -> None:
    """The name resolves to a hostile address when it is sent to, whatever it was when the webhook was made."""
    assert len(ADDRESSES) >= 40
    clock = Clock()
    rig = Deliveries(MemoryWebhooks(clock, of_tenant=100), clock)
    async with site({"/": answer(b"hello")}) as there:
        for at, address in enumerate(ADDRESSES):
            await rig.add(webhook_id=f"w{at}")
            await rig.store.change("acme", f"w{at}", to(f"http://{address}:{there.port}/"))
        bare = [address.strip("[]").replace("%25", "%") for address in ADDRESSES]
        named = [each for each in bare if each.replace(".", "").isdigit() or ":" in each]
        for at in range(len(named)):
            await rig.add(webhook_id=f"n{at}")
            await rig.store.change("acme", f"n{at}", to(f"http://n{at}.example:{there.port}/"))

        async def resolve(host: str, port: int) -> list[str]:
            if host.endswith(".example"):
                return ["93.184.215.14", named[int(host[1:].partition(".")[0])]]
            found = await asyncio.get_running_loop().getaddrinfo(host, port)
            return [str(each[4][0]) for each in found]

        async with HttpWeb(ports=[there.port], resolve=resolve, timeout_s=10) as web:
            await rig.happen("job:1")
            await rig.deliverer(web=web).deliver()
        assert there.asked == []
    for webhook in await rig.store.all("acme"):
        [found] = (await rig.store.list_deliveries("acme", webhook.id, DELIVERIES.query())).items
        assert (found.state, found.attempts, found.last_status) == (DeliveryState.PENDING, 1, 0)
        refusals = ("is not a public address", "is not a URL", "cannot be found")
        assert any(each in found.last_error for each in refusals), (webhook.uri, found.last_error)


def to(uri: str) -> Any:
    return lambda found: replace(found, uri=uri)


async def test_a_redirect_is_a_failure_and_is_not_followed() -> None:
    clock = Clock()
    rig = Deliveries(MemoryWebhooks(clock), clock)
    await rig.add()
    secret = answer(b"s3cret inside", "500 s3cret", x_secret="s3cret")
    async with site({"/": [answer(b"", "302 Found", location="/inner"), secret], "/inner": answer(b"")}) as there:
        await rig.store.change("acme", "w", to(f"http://{LOCAL}:{there.port}/"))
        async with HttpWeb(ports=[there.port], allowed=lambda _, each: each == LOCAL) as web:
            await rig.happen("job:1")
            await rig.deliverer(web=web).deliver()
            assert (await state_of(rig, 1))[2:] == (302, "answered 302")
            rig.clock.advance(days=1)
            await rig.deliverer(web=web).deliver()
        assert [each.split(" ")[1] for each in there.asked] == ["/", "/"]
    assert (await state_of(rig, 1))[2:] == (500, "answered 500"), "nothing of the answer is shown"


KILLED = """
import asyncio, os, signal, sys
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_webhooks import RedisWebhooks
from services.jobs.delivering import Deliverer
from services.jobs.adapters.web import HttpWeb
from services.jobs.webhook import Schedule

class Dying(RedisWebhooks):
    async def finish(self, turn, sent):
        os.kill(os.getpid(), signal.SIGKILL)

async def main(url, prefix, port):
    async with Redis.open(url, prefix) as redis, HttpWeb(ports=[int(port)], allowed=lambda *_: True) as web:
        await Deliverer(Dying(redis, lease_s=0.2), web, Schedule(disable_after_s=60), slots=1).deliver()

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_process_killed_between_sending_and_writing_that_down_has_it_sent_again(server: Store) -> None:
    prefix = f"{secrets.token_hex(4)}:"
    async with Redis.open(server.url, prefix) as redis, site({"/": answer(b"")}) as there:
        rig = Deliveries(RedisWebhooks(redis, lease_s=0.2), Clock())
        await rig.add()
        await rig.store.change("acme", "w", to(f"http://{LOCAL}:{there.port}/"))
        await rig.happen("job:1", "job:1")
        arguments = [sys.executable, "-c", KILLED, server.url, prefix, str(there.port)]
        killed = await asyncio.to_thread(subprocess.run, arguments, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL
        async with (
            HttpWeb(ports=[there.port], allowed=lambda *_: True) as web,
            kept_going("webhooks", rig.deliverer(web=web).run),
        ):
            while (await state_of(rig, 2))[0] is not DeliveryState.DELIVERED:
                await asyncio.sleep(0.02)
        ids = [line for asked in there.asked for line in asked.splitlines() if line.startswith("webhook-id")]
        assert ids == ["webhook-id: uid-1", "webhook-id: uid-1", "webhook-id: uid-2"]
        assert (await state_of(rig, 1))[:2] == (DeliveryState.DELIVERED, 2)
