"""The audit stream hands out every event until it is settled, whoever dies over it."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from services.mesh.audit import packed
from services.mesh.audit_trail import EVENT, STREAM
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import open_redis
from services.system.adapters.redis_audit import RedisAuditStream
from services.system.ports import Taken
from tests.jobs_store import Store, store_in
from tests.system_records import event

NEVER = 600.0


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with store_in(tmp_path_factory.mktemp("r")) as running:
        yield running


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Any]:
    async with open_redis(store.url, connections=2) as opened:
        yield opened


async def write(client: Any, *numbers: int) -> None:
    for number in numbers:
        await client.xadd(STREAM, {EVENT: packed(event(number, code="OK"))})


def numbers(taken: Sequence[Taken]) -> list[int]:
    return [int(each.event.event_id, 16) for each in taken if each.event]


async def test_events_written_before_anybody_reads_are_taken_in_order(client: Any) -> None:
    await write(client, 1, 2, 3)
    stream = RedisAuditStream(client, claim_s=NEVER)
    assert numbers(await stream.take()) == [1, 2, 3]


async def test_what_is_settled_is_gone_and_the_rest_stays(client: Any) -> None:
    await write(client, 1, 2, 3)
    stream = RedisAuditStream(client, claim_s=NEVER)
    taken = await stream.take()
    await stream.settle([taken[0].entry_id, taken[2].entry_id])
    assert await client.xlen(STREAM) == 1
    again = RedisAuditStream(client, claim_s=0.001)
    assert numbers(await again.take()) == [2]


async def test_two_that_read_at_once_share_what_there_is(client: Any) -> None:
    one, other = RedisAuditStream(client, claim_s=NEVER), RedisAuditStream(client, claim_s=NEVER)
    await write(client, 1)
    first = await one.take()
    await write(client, 2)
    assert (numbers(first), numbers(await other.take())) == ([1], [2])


async def test_what_nobody_settled_comes_again_to_whoever_asks(client: Any) -> None:
    await write(client, 1, 2)
    await RedisAuditStream(client, claim_s=NEVER).take()
    survivor = RedisAuditStream(client, claim_s=0.001)
    while not (taken := await survivor.take()):
        pass  # not idle for long enough yet
    assert numbers(taken) == [1, 2]


async def test_a_store_that_began_anew_is_read_from_its_beginning(client: Any) -> None:
    stream = RedisAuditStream(client, claim_s=NEVER)
    await write(client, 1)
    await stream.take()
    await client.flushall()
    await write(client, 2)
    assert numbers(await stream.take()) == [2]


async def test_what_cannot_be_read_is_handed_out_as_it_is(client: Any) -> None:
    await client.xadd(STREAM, {EVENT: b"no event"})
    await client.xadd(STREAM, {"other": b"x"})
    taken = await RedisAuditStream(client, claim_s=NEVER).take()
    assert [(each.event, each.content) for each in taken] == [(None, b"no event"), (None, b"")]


async def test_an_empty_stream_has_nothing_to_hand_out(client: Any) -> None:
    assert list(await RedisAuditStream(client, claim_s=0.01).take()) == []


async def test_a_store_that_is_away_is_unavailable(client: Any, store: Store) -> None:
    store.kill()
    with pytest.raises(DependencyUnavailable):
        await RedisAuditStream(client, claim_s=NEVER).take()


async def test_an_event_of_a_newer_version_is_read_as_far_as_it_is_known(client: Any) -> None:
    newer = packed(event(1)).replace(b"{", b'{"unheard_of": 1, ', 1)
    await client.xadd(STREAM, {EVENT: newer})
    (taken,) = await RedisAuditStream(client, claim_s=NEVER).take()
    assert taken.event == event(1)
