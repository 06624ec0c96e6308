"""The revision of each index, counted in Redis."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio as redis
import structlog
from redis.exceptions import RedisError

from services.mesh.errors import DependencyUnavailable
from services.retrieval.chunks import IndexId

_CONNECTIONS: Final = 16


class RedisRevisions:
    """Fulfils IndexRevisions with one counter a collection."""

    def __init__(self, client: redis.Redis, *, timeout_s: float) -> None:
        self._redis: Any = client
        self._timeout_s = timeout_s

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout_s: float) -> AsyncIterator["RedisRevisions"]:
        """Counters in the store at `url`, which need not be up yet."""
        pool = redis.BlockingConnectionPool.from_url(url, max_connections=_CONNECTIONS, timeout=None)
        client = redis.Redis.from_pool(pool)
        try:
            yield cls(client, timeout_s=timeout_s)
        finally:
            await client.aclose()

    async def bump(self, index: IndexId) -> int:
        return int(await self._answer(self._redis.incr(_key(index))))

    async def current(self, index: IndexId) -> int:
        return int(await self._answer(self._redis.get(_key(index))) or 0)

    async def check(self) -> None:
        await self._answer(self._redis.ping())

    async def _answer(self, asked: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except (RedisError, OSError, TimeoutError) as error:
            structlog.get_logger("retrieval.redis").warning("revisions unavailable", error=type(error).__name__)
            raise DependencyUnavailable("the revision counter (Redis) does not answer", retry_after_s=1.0) from None


def _key(index: IndexId) -> str:
    return f"ragweave:index:{index}:revision"
