"""The revision of each index, counted in Redis, and whose index it is."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

from redis.exceptions import ConnectionError as Disconnected

from services.mesh.breakers import breaker_of
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import REDIS, UNANSWERED, answering, open_redis
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Bumped, Heard

_CONNECTIONS: Final = 16
# A revision that is bumped twice is as good as bumped once.
_REPEATS: Final = 1
_CHANNEL: Final = "ragweave:index:revisions"
# Whoever follows is told of a bump before who made it hears that it is made.
_BUMP: Final = """
local revision = redis.call('INCR', KEYS[1])
redis.call('PUBLISH', ARGV[1], ARGV[2] .. ' ' .. revision)
return revision
"""
_BEAT_S: Final = 0.25
_SILENCE_S: Final = 3.0


class RedisRevisions:
    """Fulfils IndexRevisions with a counter a collection and a set of indexes a tenant, and RevisionFeed by pub/sub."""

    def __init__(self, client: Any, *, timeout_s: float) -> None:
        self._redis = client
        self._timeout_s = timeout_s
        self._breaker = breaker_of(REDIS)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout_s: float) -> AsyncIterator["RedisRevisions"]:
        """Counters in the store at `url`, which need not be up yet."""
        async with open_redis(url, connections=_CONNECTIONS, repeats=_REPEATS) as client:
            yield cls(client, timeout_s=timeout_s)

    async def bump(self, index: IndexId) -> int:
        async with self._answering():
            return int(await self._redis.eval(_BUMP, 1, _key(index), _CHANNEL, index))

    async def current(self, index: IndexId) -> int:
        async with self._answering():
            return int(await self._redis.get(_key(index)) or 0)

    async def claim(self, tenant: str, index: IndexId) -> None:
        async with self._answering():
            await self._redis.sadd(_owned(tenant), index)

    async def of(self, tenant: str) -> Sequence[IndexId]:
        async with self._answering():
            found = await self._redis.smembers(_owned(tenant))
        return [IndexId(each.decode()) for each in sorted(found)]

    async def forget(self, tenant: str, index: IndexId) -> None:
        async with self._answering():
            await self._redis.pipeline(transaction=True).delete(_key(index)).srem(_owned(tenant), index).execute()

    async def check(self) -> None:
        async with self._answering():
            await self._redis.ping()

    async def follow(self) -> AsyncIterator[Bumped | Heard]:
        """One connection has bumps and the answers to pings in order: what was bumped before a ping comes before."""
        try:
            async with self._redis.pubsub() as feed:
                await feed.subscribe(_CHANNEL)
                beating = asyncio.create_task(_beat(feed))
                try:
                    async with aclosing(_events(feed)) as events:
                        async for event in events:
                            yield event
                finally:
                    beating.cancel()
                    with suppress(asyncio.CancelledError, *UNANSWERED):
                        await beating
        except UNANSWERED as error:
            raise DependencyUnavailable(f"the feed of revisions broke ({type(error).__name__})") from None

    def _answering(self) -> AbstractAsyncContextManager[None]:
        return answering("the revision counter (Redis)", self._breaker, timeout_s=self._timeout_s)


async def _beat(feed: Any) -> None:
    while True:
        await feed.ping(repr(time.monotonic()))
        await asyncio.sleep(_BEAT_S)


async def _events(feed: Any) -> AsyncGenerator[Bumped | Heard, None]:
    """What comes over the connection; silence, or a second subscription, tells of a gap and ends it."""
    subscribed = False
    while True:
        async with asyncio.timeout(_SILENCE_S):
            message = await feed.get_message(timeout=None)
        match message:
            case {"type": "message", "data": data}:
                index, _, revision = data.decode().rpartition(" ")
                yield Bumped(IndexId(index), int(revision))
            case {"type": "pong", "data": at_s} if subscribed:
                yield Heard(float(at_s))
            case {"type": "subscribe"} if subscribed:  # the client has made a new connection by itself
                raise Disconnected("reconnected")
            case {"type": "subscribe"}:
                subscribed = True


def _key(index: IndexId) -> str:
    return f"ragweave:index:{index}:revision"


def _owned(tenant: str) -> str:
    return f"ragweave:indexes:{quote(tenant, safe='')}"
