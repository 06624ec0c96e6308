"""The revision of each index, counted in Redis, and whose index it is."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import structlog

from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import UNANSWERED, open_redis
from services.retrieval.chunks import IndexId

_CONNECTIONS: Final = 16
# A revision that is bumped twice is as good as bumped once.
_REPEATS: Final = 3


class RedisRevisions:
    """Fulfils IndexRevisions with one counter a collection, and one set of indexes a tenant."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._redis = client
        self._timeout_s = timeout_s

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout_s: float) -> AsyncIterator["RedisRevisions"]:
        """Counters in the store at `url`, which need not be up yet."""
        async with open_redis(url, connections=_CONNECTIONS, repeats=_REPEATS) as client:
            yield cls(client, timeout_s=timeout_s)

    async def bump(self, index: IndexId) -> int:
        return int(await self._answer(self._redis.incr(_key(index))))

    async def current(self, index: IndexId) -> int:
        return int(await self._answer(self._redis.get(_key(index))) or 0)

    async def claim(self, tenant: str, index: IndexId) -> None:
        await self._answer(self._redis.sadd(_owned(tenant), index))

    async def of(self, tenant: str) -> Sequence[IndexId]:
        found = await self._answer(self._redis.smembers(_owned(tenant)))
        return [IndexId(each.decode()) for each in sorted(found)]

    async def forget(self, tenant: str, index: IndexId) -> None:
        pipeline = self._redis.pipeline(transaction=True).delete(_key(index)).srem(_owned(tenant), index)
        await self._answer(pipeline.execute())

    async def check(self) -> None:
        await self._answer(self._redis.ping())

    async def _answer(self, asked: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except UNANSWERED as error:
            structlog.get_logger("retrieval.redis").warning("revisions unavailable", error=type(error).__name__)
            raise DependencyUnavailable("the revision counter (Redis) does not answer", retry_after_s=1.0) from None


def _key(index: IndexId) -> str:
    return f"ragweave:index:{index}:revision"


def _owned(tenant: str) -> str:
    return f"ragweave:indexes:{quote(tenant, safe='')}"
