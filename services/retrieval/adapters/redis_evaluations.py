"""The ports QuerySetStore and EvaluationStore over Redis; each change is one script, its receipt included."""

import zlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

import msgpack  # type: ignore[import-untyped]

from services.mesh.errors import EvaluationNotFound
from services.mesh.receipts import REQUEST_TTL, Receipt
from services.mesh.redis import answering, open_redis, unlinked
from services.retrieval.measures import Measures
from services.retrieval.query_sets import no_set, taken, too_many
from services.retrieval.samples import (
    Conclusion,
    Configuration,
    Difference,
    Evaluation,
    Found,
    FoundByEach,
    QuerySet,
    Result,
    SampleQuery,
)

_STORE: Final = "the store of evaluations (Redis)"
_CONNECTIONS: Final = 8
_REMEMBER_MS: Final = int(REQUEST_TTL.total_seconds() * 1000)
_ERASE_S: Final = 20.0

# KEYS: the sets, their queries, the receipt. A set's value begins with its etag. `was`: the etag it is to have, "" for
# none; `about`: its new value, "" for none.
_PUT: Final = """
local sets, queries, receipt = KEYS[1], KEYS[2], KEYS[3]
local id, was, about, packed, most, digest, answer, ttl = unpack(ARGV)
if digest ~= '' then
  local known = redis.call('HMGET', receipt, 'digest', 'answer')
  if known[1] then return {'SAME', known[1], known[2]} end
end
local found = redis.call('HGET', sets, id)
if was == '' then
  if found then return {'TAKEN'} end
  if redis.call('HLEN', sets) >= tonumber(most) then return {'FULL'} end
elseif not found or found:sub(1, #was) ~= was then
  return {'CHANGED'}
end
if about == '' then
  redis.call('HDEL', sets, id)
  redis.call('HDEL', queries, id)
else
  redis.call('HSET', sets, id, about)
  if packed ~= '' then redis.call('HSET', queries, id, packed) end
end
if digest ~= '' then
  redis.call('HSET', receipt, 'digest', digest, 'answer', answer)
  redis.call('PEXPIRE', receipt, ttl)
end
return {'OK'}
"""

# KEYS: the tenant's evaluations by when they are purged, the receipt. `prefix` begins the keys of each.
_ADD: Final = """
local purges, receipt = KEYS[1], KEYS[2]
local prefix, id, about, queries, purge, now, most, digest, ttl = unpack(ARGV)
if digest ~= '' then
  local known = redis.call('HMGET', receipt, 'digest', 'answer')
  if known[1] then return {'SAME', known[1], known[2]} end
end
redis.call('HSET', prefix .. id, 'about', about)
redis.call('SET', prefix .. id .. ':queries', queries)
for _, part in ipairs({'', ':queries'}) do redis.call('PEXPIREAT', prefix .. id .. part, purge) end
redis.call('ZREMRANGEBYSCORE', purges, '-inf', now)
redis.call('ZADD', purges, purge, id)
for _, old in ipairs(redis.call('ZRANGE', purges, 0, -1 - tonumber(most))) do
  redis.call('DEL', prefix .. old, prefix .. old .. ':queries', prefix .. old .. ':found')
  redis.call('ZREM', purges, old)
end
if digest ~= '' then
  redis.call('HSET', receipt, 'digest', digest, 'answer', id)
  redis.call('PEXPIRE', receipt, ttl)
end
return {'OK'}
"""

# KEYS: the evaluation, the hash that a field of is set. What is set lives no longer than the evaluation.
_SET: Final = """
local left = redis.call('PTTL', KEYS[1])
if left <= 0 then return 0 end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[2], left)
return 1
"""


class RedisEvaluations:
    """What evaluation keeps of all tenants, in one Redis."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self.sets = RedisQuerySets(client, timeout_s=timeout_s)
        self.evaluations = RedisEvaluationStore(client, timeout_s=timeout_s)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout_s: float) -> AsyncIterator["RedisEvaluations"]:
        """The store at `url`, which need not be up yet."""
        async with open_redis(url, connections=_CONNECTIONS) as client:
            yield cls(client, timeout_s=timeout_s)

    async def erase(self, tenant: str) -> int:
        """Drops some of what is kept of the tenant; how many keys these were. None are left once it is 0."""
        async with answering(_STORE, timeout_s=_ERASE_S + self._timeout_s):
            dropped, done = await unlinked(self._client, f"{_prefix(tenant)}*", within_s=_ERASE_S)
        return dropped or int(not done)


class RedisQuerySets:
    """Fulfils QuerySetStore."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._put_script = client.register_script(_PUT)

    async def recall(self, receipt: Receipt) -> QuerySet | None:
        async with answering(_STORE, timeout_s=self._timeout_s):
            digest, answer = await self._client.hmget(_receipt(receipt), "digest", "answer")
        return _answered(receipt, digest, answer) if digest is not None else None

    async def add(self, made: QuerySet, most: int, receipt: Receipt | None = None) -> QuerySet:
        answer = await self._put(made, receipt, about=_about(made), queries=_queries_packed(made.queries), most=most)
        match answer[0]:
            case b"TAKEN":
                raise taken(made.id)
            case b"FULL":
                raise too_many(most)
        return _recalled(answer, receipt) or made

    async def change(
        self, tenant: str, set_id: str, change: Callable[[QuerySet], QuerySet], receipt: Receipt | None = None
    ) -> QuerySet:
        while True:
            current = await self.get(tenant, set_id)
            made = change(current)
            queries = b"" if made.queries == current.queries else _queries_packed(made.queries)
            answer = await self._put(made, receipt, was=current.etag, about=_about(made), queries=queries)
            if answer[0] != b"CHANGED":
                return _recalled(answer, receipt) or made

    async def remove(
        self, tenant: str, set_id: str, check: Callable[[QuerySet], None], receipt: Receipt | None = None
    ) -> QuerySet:
        while True:
            current = await self.get(tenant, set_id)
            check(current)
            answer = await self._put(current, receipt, was=current.etag)
            if answer[0] != b"CHANGED":
                return _recalled(answer, receipt) or current

    async def get(self, tenant: str, set_id: str) -> QuerySet:
        async with answering(_STORE, timeout_s=self._timeout_s):
            pipeline = self._client.pipeline(transaction=True)
            about, queries = await pipeline.hget(_sets(tenant), set_id).hget(_set_queries(tenant), set_id).execute()
        if about is None:
            raise no_set(set_id)
        return _query_set(tenant, set_id, about, _queries_unpacked(queries))

    async def all(self, tenant: str) -> list[QuerySet]:
        async with answering(_STORE, timeout_s=self._timeout_s):
            found = await self._client.hgetall(_sets(tenant))
        return [_query_set(tenant, set_id.decode(), about) for set_id, about in found.items()]

    async def _put(
        self,
        made: QuerySet,
        receipt: Receipt | None,
        *,
        was: str = "",
        about: bytes = b"",
        queries: bytes = b"",
        most: int = 0,
    ) -> Sequence[Any]:
        keys = [_sets(made.tenant), _set_queries(made.tenant), _receipt(receipt)]
        answer = msgpack.packb([made.id, _about(made)])
        noted = [receipt.digest if receipt else "", answer, _REMEMBER_MS]
        async with answering(_STORE, timeout_s=self._timeout_s):
            return cast(Sequence[Any], await self._put_script(keys, [made.id, was, about, queries, most, *noted]))


class RedisEvaluationStore:
    """Fulfils EvaluationStore."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._add_script = client.register_script(_ADD)
        self._set_script = client.register_script(_SET)

    async def recall(self, receipt: Receipt) -> str | None:
        async with answering(_STORE, timeout_s=self._timeout_s):
            digest, answer = await self._client.hmget(_receipt(receipt), "digest", "answer")
        if digest is None:
            return None
        receipt.check(digest.decode())
        return str(answer.decode())

    async def add(
        self, made: Evaluation, queries: Sequence[SampleQuery], most: int, receipt: Receipt | None = None
    ) -> str:
        purge, now = _milliseconds(made.purge_time), _milliseconds(made.create_time)
        arguments = [_evaluation(made.tenant), made.id, _evaluation_packed(made), _queries_packed(queries), purge, now]
        noted = [most, receipt.digest if receipt else "", _REMEMBER_MS]
        async with answering(_STORE, timeout_s=self._timeout_s):
            answer = await self._add_script([_purges(made.tenant), _receipt(receipt)], [*arguments, *noted])
        if answer[0] == b"SAME" and receipt is not None:
            receipt.check(answer[1].decode())
            return str(answer[2].decode())
        return made.id

    async def queued(self, tenant: str, evaluation_id: str, job: str) -> None:
        await self._set(tenant, evaluation_id, "", "job", job)

    async def get(self, tenant: str, evaluation_id: str) -> Evaluation:
        for found in await self._read(tenant, [evaluation_id]):
            return found
        raise _no_evaluation(evaluation_id)

    async def all(self, tenant: str) -> list[Evaluation]:
        async with answering(_STORE, timeout_s=self._timeout_s):
            ids = await self._client.zrange(_purges(tenant), 0, -1)
        return await self._read(tenant, [each.decode() for each in ids])

    async def queries(self, tenant: str, evaluation_id: str) -> list[SampleQuery]:
        async with answering(_STORE, timeout_s=self._timeout_s):
            packed = await self._client.get(f"{_evaluation(tenant)}{evaluation_id}:queries")
        if packed is None:
            raise _no_evaluation(evaluation_id)
        return list(_queries_unpacked(packed))

    async def keep(self, tenant: str, evaluation_id: str, query_id: str, found: FoundByEach) -> None:
        packed = msgpack.packb([each and astuple(each) for each in found])
        if not await self._set(tenant, evaluation_id, ":found", query_id, packed):
            raise _no_evaluation(evaluation_id)

    async def found(self, tenant: str, evaluation_id: str) -> Mapping[str, FoundByEach]:
        async with answering(_STORE, timeout_s=self._timeout_s):
            kept = await self._client.hgetall(f"{_evaluation(tenant)}{evaluation_id}:found")
        return {query_id.decode(): _found(packed) for query_id, packed in kept.items()}

    async def conclude(self, tenant: str, evaluation_id: str, conclusion: Conclusion) -> None:
        packed = msgpack.packb(
            [
                [astuple(each) for each in conclusion.results],
                [astuple(each) for each in conclusion.differences],
                _milliseconds(conclusion.end_time),
            ]
        )
        if not await self._set(tenant, evaluation_id, "", "conclusion", packed):
            raise _no_evaluation(evaluation_id)

    async def _set(self, tenant: str, evaluation_id: str, part: str, field: str, value: str | bytes) -> bool:
        key = f"{_evaluation(tenant)}{evaluation_id}"
        async with answering(_STORE, timeout_s=self._timeout_s):
            return bool(await self._set_script([key, f"{key}{part}"], [field, value]))

    async def _read(self, tenant: str, ids: Sequence[str]) -> list[Evaluation]:
        """Those of the evaluations that there are."""
        async with answering(_STORE, timeout_s=self._timeout_s):
            pipeline = self._client.pipeline(transaction=False)
            for evaluation_id in ids:
                pipeline.hmget(f"{_evaluation(tenant)}{evaluation_id}", "about", "job", "conclusion")
            rows = await pipeline.execute() if ids else []
        return [_evaluation_unpacked(tenant, id_, *row) for id_, row in zip(ids, rows, strict=True) if row[0]]


def _prefix(tenant: str) -> str:
    return f"ragweave:evaluation:{quote(tenant, safe='')}:"


def _sets(tenant: str) -> str:
    return f"{_prefix(tenant)}sets"


def _set_queries(tenant: str) -> str:
    return f"{_prefix(tenant)}set-queries"


def _purges(tenant: str) -> str:
    return f"{_prefix(tenant)}purges"


def _evaluation(tenant: str) -> str:
    """What the keys of an evaluation begin with; its id follows."""
    return f"{_prefix(tenant)}run:"


def _receipt(receipt: Receipt | None) -> str:
    return f"{_prefix(receipt.tenant)}receipt:{receipt.method}:{receipt.request_id}" if receipt else ""


def _recalled(answer: Sequence[Any], receipt: Receipt | None) -> QuerySet | None:
    """The answer to an earlier request; None where this was the first."""
    return _answered(receipt, answer[1], answer[2]) if answer[0] == b"SAME" and receipt else None


def _answered(receipt: Receipt, digest: bytes, answer: bytes) -> QuerySet:
    receipt.check(digest.decode())
    set_id, about = msgpack.unpackb(answer)
    return _query_set(receipt.tenant, set_id, about)


def _about(made: QuerySet) -> bytes:
    """What is kept of a set besides its queries; begins with its etag."""
    parts = [made.description, made.query_count, _milliseconds(made.create_time), _milliseconds(made.update_time)]
    return made.etag.encode() + cast(bytes, msgpack.packb(parts))


def _query_set(tenant: str, set_id: str, about: bytes, queries: tuple[SampleQuery, ...] = ()) -> QuerySet:
    end = about.index(b'"', 1) + 1
    description, count, create, update = msgpack.unpackb(about[end:])
    return QuerySet(tenant, set_id, description, count, _moment(create), _moment(update), about[:end].decode(), queries)


def _queries_packed(queries: Sequence[SampleQuery]) -> bytes:
    return zlib.compress(msgpack.packb([[each.id, each.text, each.judgements] for each in queries]))


def _queries_unpacked(packed: bytes) -> tuple[SampleQuery, ...]:
    return tuple(
        SampleQuery(id_, text, tuple((name, grade) for name, grade in judgements))
        for id_, text, judgements in msgpack.unpackb(zlib.decompress(packed))
    )


def _evaluation_packed(made: Evaluation) -> bytes:
    parts = [
        made.description,
        made.set_id,
        made.collections,
        [[each.name, each.search] for each in made.configurations],
        made.query_count,
        _milliseconds(made.create_time),
        _milliseconds(made.purge_time),
        made.shown_with,
        made.request,
    ]
    return cast(bytes, msgpack.packb(parts))


def _evaluation_unpacked(
    tenant: str, evaluation_id: str, about: bytes, job: bytes | None, conclusion: bytes | None
) -> Evaluation:
    description, set_id, collections, configurations, count, create, purge, shown_with, request = msgpack.unpackb(about)
    return Evaluation(
        tenant=tenant,
        id=evaluation_id,
        description=description,
        set_id=set_id,
        collections=tuple(collections),
        configurations=tuple(Configuration(name, search) for name, search in configurations),
        query_count=count,
        create_time=_moment(create),
        purge_time=_moment(purge),
        shown_with=shown_with,
        request=request,
        job=job.decode() if job else "",
        conclusion=_conclusion(conclusion) if conclusion else None,
    )


def _conclusion(packed: bytes) -> Conclusion:
    results, differences, end = msgpack.unpackb(packed)
    return Conclusion(
        [Result(name, [Measures(*each) for each in measures], *rest) for name, measures, *rest in results],
        [Difference(*each) for each in differences],
        _moment(end),
    )


def _found(packed: bytes) -> FoundByEach:
    return tuple(
        each and Found([(rank, grade) for rank, grade in each[0]], *each[1:]) for each in msgpack.unpackb(packed)
    )


def _no_evaluation(evaluation_id: str) -> EvaluationNotFound:
    return EvaluationNotFound(f"evaluations/{evaluation_id} does not exist", name=f"evaluations/{evaluation_id}")


def _milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
