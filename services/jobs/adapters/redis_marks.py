"""The Marks port over Redis: a key a collection, forgotten by itself."""

from services.jobs.adapters.redis import Redis


class RedisMarks:
    """What the directories of collections that follow them looked like, for every process that looks."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def mark(self, tenant: str, uid: str) -> str:
        async with self._redis.answering():
            stamp = await self._redis.client.get(self._redis.synced(tenant, uid))
        return stamp.decode() if stamp else ""

    async def set_mark(self, tenant: str, uid: str, stamp: str, keep_s: float) -> None:
        async with self._redis.answering():
            await self._redis.client.set(self._redis.synced(tenant, uid), stamp, px=int(keep_s * 1000))
