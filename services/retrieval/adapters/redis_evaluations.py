"""The port EvaluationStore over Redis, and what the two stores have in common to open and to erase."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]

from services.mesh.breakers import breaker_of
from services.mesh.errors import EvaluationNotFound
from services.mesh.receipts import Receipt
from services.mesh.redis import REDIS, answering, open_redis, unlinked
from services.retrieval.adapters.redis_query_sets import (
    REMEMBER_MS,
    STORE,
    RedisQuerySets,
    milliseconds,
    moment,
    prefix,
    queries_packed,
    queries_unpacked,
    receipt_key,
)
from services.retrieval.measures import Measures
from services.retrieval.samples import (
    Conclusion,
    Configuration,
    Difference,
    Evaluation,
    Failed,
    Found,
    FoundByEach,
    Result,
    SampleQuery,
)

_CONNECTIONS: Final = 8
_ERASE_S: Final = 20.0

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
        self._breaker = breaker_of(REDIS)
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
        async with answering(STORE, self._breaker, timeout_s=_ERASE_S + self._timeout_s):
            dropped, done = await unlinked(self._client, f"{prefix(tenant)}*", within_s=_ERASE_S)
        return dropped or int(not done)


class RedisEvaluationStore:
    """Fulfils EvaluationStore."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._breaker = breaker_of(REDIS)
        self._add_script = client.register_script(_ADD)
        self._set_script = client.register_script(_SET)

    async def recall(self, receipt: Receipt) -> str | None:
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            digest, answer = await self._client.hmget(receipt_key(receipt), "digest", "answer")
        if digest is None:
            return None
        receipt.check(digest.decode())
        return str(answer.decode())

    async def add(
        self, made: Evaluation, queries: Sequence[SampleQuery], most: int, receipt: Receipt | None = None
    ) -> str:
        purge, now = milliseconds(made.purge_time), milliseconds(made.create_time)
        arguments = [_evaluation(made.tenant), made.id, _evaluation_packed(made), queries_packed(queries), purge, now]
        noted = [most, receipt.digest if receipt else "", REMEMBER_MS]
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            answer = await self._add_script([_purges(made.tenant), receipt_key(receipt)], [*arguments, *noted])
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
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            ids = await self._client.zrange(_purges(tenant), 0, -1)
        return await self._read(tenant, [each.decode() for each in ids])

    async def queries(self, tenant: str, evaluation_id: str) -> list[SampleQuery]:
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            packed = await self._client.get(f"{_evaluation(tenant)}{evaluation_id}:queries")
        if packed is None:
            raise _no_evaluation(evaluation_id)
        return list(queries_unpacked(packed))

    async def keep(self, tenant: str, evaluation_id: str, query_id: str, found: FoundByEach) -> None:
        packed = msgpack.packb([each.message if isinstance(each, Failed) else astuple(each) for each in found])
        if not await self._set(tenant, evaluation_id, ":found", query_id, packed):
            raise _no_evaluation(evaluation_id)

    async def found(self, tenant: str, evaluation_id: str) -> Mapping[str, FoundByEach]:
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            kept = await self._client.hgetall(f"{_evaluation(tenant)}{evaluation_id}:found")
        return {query_id.decode(): _found(packed) for query_id, packed in kept.items()}

    async def conclude(self, tenant: str, evaluation_id: str, conclusion: Conclusion) -> None:
        packed = msgpack.packb(
            [
                [astuple(each) for each in conclusion.results],
                [astuple(each) for each in conclusion.differences],
                milliseconds(conclusion.end_time),
            ]
        )
        if not await self._set(tenant, evaluation_id, "", "conclusion", packed):
            raise _no_evaluation(evaluation_id)

    async def _set(self, tenant: str, evaluation_id: str, part: str, field: str, value: str | bytes) -> bool:
        key = f"{_evaluation(tenant)}{evaluation_id}"
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            return bool(await self._set_script([key, f"{key}{part}"], [field, value]))

    async def _read(self, tenant: str, ids: Sequence[str]) -> list[Evaluation]:
        """Those of the evaluations that there are."""
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            pipeline = self._client.pipeline(transaction=False)
            for evaluation_id in ids:
                pipeline.hmget(f"{_evaluation(tenant)}{evaluation_id}", "about", "job", "conclusion")
            rows = await pipeline.execute() if ids else []
        return [_evaluation_unpacked(tenant, id_, *row) for id_, row in zip(ids, rows, strict=True) if row[0]]


def _purges(tenant: str) -> str:
    return f"{prefix(tenant)}purges"


def _evaluation(tenant: str) -> str:
    """What the keys of an evaluation begin with; its id follows."""
    return f"{prefix(tenant)}run:"


def _evaluation_packed(made: Evaluation) -> bytes:
    parts = [
        made.description,
        made.set_id,
        made.collections,
        [[each.name, each.search] for each in made.configurations],
        made.query_count,
        milliseconds(made.create_time),
        milliseconds(made.purge_time),
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
        create_time=moment(create),
        purge_time=moment(purge),
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
        moment(end),
    )


def _found(packed: bytes) -> FoundByEach:
    return tuple(Failed(each) if isinstance(each, str) else _found_by_one(*each) for each in msgpack.unpackb(packed))


def _found_by_one(ranks: list[list[int]], seconds: float, hits: int, lacking: list[str]) -> Found:
    return Found([(rank, grade) for rank, grade in ranks], seconds, hits, tuple(lacking))


def _no_evaluation(evaluation_id: str) -> EvaluationNotFound:
    return EvaluationNotFound(f"evaluations/{evaluation_id} does not exist", name=f"evaluations/{evaluation_id}")
