"""The stream of audit events in Redis, read by a consumer group."""

import time
from collections.abc import Sequence
from typing import Any, Final

from redis.exceptions import ResponseError

from services.mesh.audit import unpacked
from services.mesh.audit_trail import EVENT, STREAM
from services.mesh.breakers import breaker_of
from services.mesh.redis import REDIS, answering
from services.system.ports import Taken

_GROUP: Final = "system"
# One name for all replicas: what one of them took and did not settle is claimed by its age, whoever it was.
_CONSUMER: Final = "system"
_AT_ONCE: Final = 500
_WAIT_S: Final = 2.0
_TIMEOUT_S: Final = 10.0


class RedisAuditStream:
    """Fulfils AuditStream.

    Args:
        claim_s: How long a taken entry is left to whoever took it.
    """

    def __init__(self, client: Any, *, claim_s: float) -> None:
        self._redis = client
        self._breaker = breaker_of(REDIS)
        self._claim_s = claim_s
        self._grouped = False
        self._claimed_at = float("-inf")

    async def take(self) -> Sequence[Taken]:
        async with answering("the audit stream", self._breaker, timeout_s=_TIMEOUT_S):
            try:
                return await self._take()
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):  # of a store that began anew
                    raise
                self._grouped = False
                return await self._take()

    async def settle(self, entry_ids: Sequence[str]) -> None:
        async with answering("the audit stream", self._breaker, timeout_s=_TIMEOUT_S):
            pipeline = self._redis.pipeline(transaction=True)
            pipeline.xack(STREAM, _GROUP, *entry_ids)
            pipeline.xdel(STREAM, *entry_ids)
            await pipeline.execute()

    async def _take(self) -> Sequence[Taken]:
        if not self._grouped:
            await self._group()
        if time.monotonic() - self._claimed_at >= self._claim_s:
            if left := await self._claim():
                return left
            self._claimed_at = time.monotonic()
        found = await self._redis.xreadgroup(
            _GROUP, _CONSUMER, {STREAM: ">"}, count=_AT_ONCE, block=int(min(_WAIT_S, self._claim_s) * 1000)
        )
        return [_taken(*entry) for _, entries in found or () for entry in entries]

    async def _claim(self) -> Sequence[Taken]:
        _, entries, *_ = await self._redis.xautoclaim(
            STREAM, _GROUP, _CONSUMER, min_idle_time=int(self._claim_s * 1000), count=_AT_ONCE
        )
        return [_taken(*entry) for entry in entries]

    async def _group(self) -> None:
        try:
            await self._redis.xgroup_create(STREAM, _GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
        self._grouped = True


def _taken(entry_id: bytes, fields: dict[bytes, bytes] | None) -> Taken:
    content = (fields or {}).get(EVENT.encode(), b"")
    try:
        return Taken(entry_id.decode(), unpacked(content), content)
    except ValueError:
        return Taken(entry_id.decode(), None, content)
