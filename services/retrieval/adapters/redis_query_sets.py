"""The port QuerySetStore over Redis; each change is one script, its receipt included."""

import zlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import quote

import msgpack  # type: ignore[import-untyped]

from services.mesh.breakers import breaker_of
from services.mesh.receipts import REQUEST_TTL, Receipt
from services.mesh.redis import REDIS, answering
from services.retrieval.query_sets import no_set, taken, too_many
from services.retrieval.samples import QuerySet, SampleQuery

STORE: Final = "the store of evaluations (Redis)"
REMEMBER_MS: Final = int(REQUEST_TTL.total_seconds() * 1000)

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


class RedisQuerySets:
    """Fulfils QuerySetStore."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._breaker = breaker_of(REDIS)
        self._put_script = client.register_script(_PUT)

    async def recall(self, receipt: Receipt) -> QuerySet | None:
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            digest, answer = await self._client.hmget(receipt_key(receipt), "digest", "answer")
        return _answered(receipt, digest, answer) if digest is not None else None

    async def add(self, made: QuerySet, most: int, receipt: Receipt | None = None) -> QuerySet:
        answer = await self._put(made, receipt, about=_about(made), queries=queries_packed(made.queries), most=most)
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
            queries = b"" if made.queries == current.queries else queries_packed(made.queries)
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
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            pipeline = self._client.pipeline(transaction=True)
            about, queries = await pipeline.hget(_sets(tenant), set_id).hget(_set_queries(tenant), set_id).execute()
        if about is None:
            raise no_set(set_id)
        return _query_set(tenant, set_id, about, queries_unpacked(queries))

    async def all(self, tenant: str) -> list[QuerySet]:
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
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
        keys = [_sets(made.tenant), _set_queries(made.tenant), receipt_key(receipt)]
        answer = msgpack.packb([made.id, _about(made)])
        noted = [receipt.digest if receipt else "", answer, REMEMBER_MS]
        async with answering(STORE, self._breaker, timeout_s=self._timeout_s):
            return cast(Sequence[Any], await self._put_script(keys, [made.id, was, about, queries, most, *noted]))


def prefix(tenant: str) -> str:
    return f"ragweave:evaluation:{quote(tenant, safe='')}:"


def receipt_key(receipt: Receipt | None) -> str:
    return f"{prefix(receipt.tenant)}receipt:{receipt.method}:{receipt.request_id}" if receipt else ""


def _sets(tenant: str) -> str:
    return f"{prefix(tenant)}sets"


def _set_queries(tenant: str) -> str:
    return f"{prefix(tenant)}set-queries"


def _recalled(answer: Sequence[Any], receipt: Receipt | None) -> QuerySet | None:
    """The answer to an earlier request; None where this was the first."""
    return _answered(receipt, answer[1], answer[2]) if answer[0] == b"SAME" and receipt else None


def _answered(receipt: Receipt, digest: bytes, answer: bytes) -> QuerySet:
    receipt.check(digest.decode())
    set_id, about = msgpack.unpackb(answer)
    return _query_set(receipt.tenant, set_id, about)


def _about(made: QuerySet) -> bytes:
    """What is kept of a set besides its queries; begins with its etag."""
    parts = [made.description, made.query_count, milliseconds(made.create_time), milliseconds(made.update_time)]
    return made.etag.encode() + cast(bytes, msgpack.packb(parts))


def _query_set(tenant: str, set_id: str, about: bytes, queries: tuple[SampleQuery, ...] = ()) -> QuerySet:
    end = about.index(b'"', 1) + 1
    description, count, create, update = msgpack.unpackb(about[end:])
    return QuerySet(tenant, set_id, description, count, moment(create), moment(update), about[:end].decode(), queries)


def queries_packed(queries: Sequence[SampleQuery]) -> bytes:
    return zlib.compress(msgpack.packb([[each.id, each.text, each.judgements] for each in queries]))


def queries_unpacked(packed: bytes) -> tuple[SampleQuery, ...]:
    return tuple(
        SampleQuery(id_, text, tuple((name, grade) for name, grade in judgements))
        for id_, text, judgements in msgpack.unpackb(zlib.decompress(packed))
    )


def milliseconds(at: datetime) -> int:
    return round(at.timestamp() * 1000)


def moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
