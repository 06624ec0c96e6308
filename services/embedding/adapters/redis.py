"""Embeddings kept in a Redis-protocol store, shared by all replicas."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from services.embedding.cache import TENANT_BYTES
from services.mesh.redis import Dispensable, answering, open_redis, unlinked

_CACHE: Final = "embedding cache"
# What one call of erase may take, in seconds.
_ERASE_S: Final = 15.0
# Callers above this number wait for a connection, within the time they give the store.
_CONNECTIONS: Final = 8


class RedisCache:
    """Plain keys with a time to live. A store that fails or is slow is a miss, logged once until it answers again."""

    def __init__(self, client: Any, *, ttl_s: int, timeout_s: float) -> None:
        self._redis = client
        self._ttl_s = ttl_s
        self._store = Dispensable(_CACHE, timeout_s=timeout_s)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, ttl_s: int, timeout_s: float) -> AsyncIterator[Self]:
        """The cache in the store at `url`, which need not be up.

        Args:
            ttl_s: How long an entry is kept, in seconds.
            timeout_s: How long the store may take to answer, in seconds.
        """
        async with open_redis(url, connections=_CONNECTIONS, known_as=(_CACHE,)) as client:
            yield cls(client, ttl_s=ttl_s, timeout_s=timeout_s)

    async def get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        pipeline = self._redis.pipeline(transaction=False).mget([_name(key) for key in keys])
        answers = await self._store.answers(pipeline)
        return answers[0] if answers else [None] * len(keys)

    async def put(self, entries: Mapping[bytes, bytes]) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for key, value in entries.items():
            pipeline.set(_name(key), value, ex=self._ttl_s)
        await self._store.answers(pipeline)

    async def erase(self, tenant: bytes) -> tuple[int, bool]:
        async with answering("the embedding cache", self._store.breaker, timeout_s=2 * _ERASE_S):
            return await unlinked(self._redis, f"{_name(tenant)}*", within_s=_ERASE_S)


def _name(key: bytes) -> str:
    return f"ragweave:embedding:{key[:TENANT_BYTES].hex()}:{key[TENANT_BYTES:].hex()}"
