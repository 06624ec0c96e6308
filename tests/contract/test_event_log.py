"""The port EventLog, held by what fulfils it: Redis, and the log in memory that other tests use."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest

from services.jobs.adapters.redis import Kept, Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.events import Span
from services.jobs.ports_events import EventLog
from services.mesh.errors import EventsForgotten
from tests.jobs_events import MemoryEventLog, change, recorded_as
from tests.jobs_store import Store, store_in

# Redis drops whole nodes of a stream, of a hundred entries each.
MOST = 100
MANY = 500


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture(params=["redis", "memory"])
async def log(request: pytest.FixtureRequest, server: Store) -> AsyncIterator[EventLog]:
    if request.param == "memory":
        yield MemoryEventLog(MOST)
        return
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:", events=Kept(most=MOST)) as redis:
        yield RedisEventLog(redis)


async def test_events_are_counted_by_tenant_from_1_and_read_in_their_order(log: EventLog) -> None:
    changes = [change(number, tenant) for number, tenant in enumerate(["acme", "a:b", "acme", "a:b", "a:b"], 1)]
    await log.record(changes)
    assert await log.read("acme", 0, 10) == [recorded_as(changes[0], 1), recorded_as(changes[2], 2)]
    assert await log.read("a:b", 1, 10) == [recorded_as(changes[3], 2), recorded_as(changes[4], 3)]
    assert await log.read("a:b", 0, 1) == [recorded_as(changes[1], 1)]
    assert await log.read("a:b", 3, 10) == []
    assert await log.span("a:b") == Span(1, 3)


async def test_a_tenant_in_which_nothing_happened_has_no_events(log: EventLog) -> None:
    assert await log.read("acme", 0, 10) == []
    assert await log.span("acme") == Span(1, 0)


async def test_a_sequence_that_was_never_reached_is_refused(log: EventLog) -> None:
    await log.record([change(1)])
    with pytest.raises(EventsForgotten):
        await log.read("acme", 2, 10)


async def test_a_change_of_a_collection_is_written_once_by_whomever_and_however_often(log: EventLog) -> None:
    changes = [change(number) for number in range(1, 41)]
    assert await log.recorded() == 0

    async def follow(step: int) -> None:
        while (after := await log.recorded()) < 40:
            await log.record(changes[after : after + step])

    await asyncio.gather(*(follow(step) for step in (1, 3, 7, 10)))
    await log.record(changes[:20])
    assert await log.recorded() == 40
    written = [event.changed_collection for event in await log.read("acme", 0, 100)]
    assert written == [each.collection for each in changes]


async def test_the_oldest_are_forgotten_and_whoever_missed_them_is_told(log: EventLog) -> None:
    await log.record([change(number) for number in range(1, MANY + 1)])
    span = await log.span("acme")
    assert span.last == MANY
    assert MOST <= span.last - span.first + 1 < 2 * MOST + 1
    kept = await log.read("acme", span.first - 1, MANY)
    assert [event.sequence for event in kept] == list(range(span.first, MANY + 1))
    for after in (0, span.first - 2):
        with pytest.raises(EventsForgotten):
            await log.read("acme", after, 1)


async def test_news_tell_of_every_tenant_with_events_and_then_of_those_with_new_ones(log: EventLog) -> None:
    await log.record([change(1, "acme"), change(2, "other")])
    news = log.news()
    async with asyncio.timeout(20):
        assert await anext(news) == {"acme", "other"}
        await log.record([change(3, "a:b")])
        assert await anext(news) == {"a:b"}
        coming = asyncio.ensure_future(anext(news))
        await asyncio.sleep(0)
        await log.record([change(4, "other")])
        assert await coming == {"other"}
    await news.aclose()  # type: ignore[attr-defined]


async def test_no_two_events_have_one_uid(log: EventLog) -> None:
    await log.record([change(number, tenant) for number, tenant in enumerate(["acme", "other"] * 5, 1)])
    events = [*await log.read("acme", 0, 10), *await log.read("other", 0, 10)]
    assert len({event.uid for event in events}) == len(events) == 10
    assert await log.read("acme", 0, 10) == events[:5]
    assert [event.uid for event in await log.read("acme", 0, 10)] == [event.uid for event in events[:5]]
