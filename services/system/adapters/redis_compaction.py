"""Rids Redis of the log in which deleted keys are still written."""

import asyncio
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from services.mesh.breakers import breaker_of
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import REDIS, answering

_STORE: Final = "the store"
_TIMEOUT_S: Final = 10.0
_LONGEST_S: Final = 60.0
_POLL_S: Final = 0.1


class RedisCompaction:
    """Fulfils Compaction: has the append-only file written anew, from what there is now.

    A store that is somebody else's may not allow that, and has backups and replicas besides: then it is its operator's
    to see to, and logged.
    """

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._breaker = breaker_of(REDIS)
        self._log = structlog.get_logger("system.compaction")

    async def compact(self) -> None:
        async with answering(_STORE, self._breaker, timeout_s=_LONGEST_S + _TIMEOUT_S):
            try:
                if not (await self._redis.info("persistence"))["aof_enabled"]:
                    return
                await self._rewrite()
            except (ResponseError, KeyError) as error:
                self._log.warning("the store keeps its history: it cannot be told to rewrite its log", error=str(error))

    async def _rewrite(self) -> None:
        until = asyncio.get_running_loop().time() + _LONGEST_S
        await self._idle(until)  # a rewriting that began earlier may have begun with what is deleted now
        try:
            await self._redis.bgrewriteaof()
        except ResponseError as error:
            if "in progress" not in str(error):
                raise
            # Another process was quicker: it too began after all that is deleted now was.
        await self._idle(until)
        if (await self._redis.info("persistence"))["aof_last_bgrewrite_status"] != "ok":
            raise DependencyUnavailable("the store could not rewrite its log", retry_after_s=1.0, service="redis")

    async def _idle(self, until: float) -> None:
        while True:
            state = await self._redis.info("persistence")
            if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
                return
            if asyncio.get_running_loop().time() > until:
                raise DependencyUnavailable("the store is still rewriting its log", retry_after_s=1.0, service="redis")
            await asyncio.sleep(_POLL_S)
