"""The BacklogStore port over Redis."""

from services.jobs.adapters.redis import Redis
from services.jobs.ports_backlog import Backlog


class RedisBacklog:
    """What is left to do in the job store.

    Args:
        lease_s: A lease whose holder is silent for so long has run out.
    """

    def __init__(self, redis: Redis, *, lease_s: float) -> None:
        self._redis = redis
        self._lease_ms = int(lease_s * 1000)

    async def backlog(self, most: int) -> Backlog:
        found = await self._redis.run("backlog", most=most, lease_ms=self._lease_ms)
        waiting, leased, delayed, oldest_ms, late, silence_ms, dead_letters, deliveries, overdue_ms = map(int, found)
        return Backlog(
            waiting=waiting,
            leased=leased,
            delayed=delayed,
            oldest_s=oldest_ms / 1000,
            late=late,
            silence_s=silence_ms / 1000,
            dead_letters=dead_letters,
            deliveries=deliveries,
            overdue_s=overdue_ms / 1000,
        )
