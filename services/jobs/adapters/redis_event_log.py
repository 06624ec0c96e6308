"""The EventLog port over Redis: a stream a tenant, written by the script that changes what the events tell of."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import msgpack  # type: ignore[import-untyped]

from services.jobs.adapters.redis import (
    Redis,
    moment,
    named,
    unpacked_item,
    unpacked_job,
    unpacked_spec,
)
from services.jobs.events import CollectionChange, Span, TenantEvent
from services.jobs.job import Assignment, JobType

_WAIT_MS = 2000
# A follower looks for news this often at most: what happens meanwhile is told of together.
_PACE_S = 0.05


class RedisEventLog:
    """Events of all tenants in one Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def read(self, tenant: str, after: int, limit: int) -> list[TenantEvent]:
        last, entries = await self._redis.run("log", tenant=named(tenant), after=after, limit=limit)
        kept = Span(_sequence(entries[0][0]) if entries else last + 1, last)
        if kept.first != after + 1:
            raise kept.missed(after)
        return [_event(tenant, _sequence(entry), fields) for entry, fields in entries]

    async def span(self, tenant: str) -> Span:
        first, last = await self._redis.run("log_span", tenant=named(tenant))
        return Span(_sequence(first) if first else last + 1, last)

    async def news(self) -> AsyncIterator[frozenset[str]]:
        turn = 0
        while True:
            rung, turn, tenants = await self._redis.run("log_news", after=turn)
            if tenants:
                yield frozenset(unquote(tenant.decode()) for tenant in tenants)
                await asyncio.sleep(_PACE_S)
            async with self._redis.answering():
                await self._redis.client.xread({self._redis.rung: rung}, count=1, block=_WAIT_MS)

    async def record(self, changes: Sequence[CollectionChange]) -> None:
        await self._redis.run("log_changes", changes=[_packed(change) for change in changes])

    async def rewind(self, seen: int, to: int) -> None:
        await self._redis.run("log_rewind", seen=seen, to=to)

    async def recorded(self) -> int:
        return int(await self._redis.run("log_changed"))


def _sequence(entry: bytes) -> int:
    return int(entry.partition(b"-")[0])


def _packed(change: CollectionChange) -> list[Any]:
    time_ms = int(change.time.timestamp() * 1000)
    who = named(change.tenant)
    return [change.sequence, who, change.topic, change.collection_id, change.collection, time_ms]


def _event(tenant: str, sequence: int, fields: Sequence[bytes]) -> TenantEvent:
    """An event as happened() of redis.lua wrote it."""
    logged: Mapping[bytes, bytes] = dict(zip(fields[::2], fields[1::2], strict=True))
    topic, collection, *subject = msgpack.unpackb(logged[b"e"], raw=True)
    event = TenantEvent(
        tenant,
        sequence,
        topic.decode(),
        moment(int(logged[b"t"])),
        collection.decode(),
        caused_by=logged.get(b"b", b"").decode(),
    )
    if event.topic.startswith("collection."):
        changed, time_ms = subject
        return replace(event, changed_collection=changed, time=moment(time_ms))
    uid, job_id, job_type, *rest = subject
    assignment = Assignment(
        tenant, job_id.decode(), "", JobType(job_type.decode()), event.collection_id, collection_uid=uid.decode()
    )
    if event.topic.startswith("document."):
        number, record, document = rest
        item = unpacked_item(number, record, unpacked_spec(document))
        return replace(event, assignment=assignment, item=item)
    return replace(event, assignment=assignment, job=unpacked_job(assignment, rest[0]))
