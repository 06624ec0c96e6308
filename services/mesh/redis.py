"""The one way a process opens the Redis-protocol store, and what it means when the store does not answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as TimedOut

from services.mesh.errors import DependencyUnavailable

# What a store that is away, starting, failing over or out of memory answers with, and what it is like not to answer.
UNANSWERED: Final = (RedisError, OSError, TimeoutError)

# A store that failed is left alone for this long, so that a dead one costs callers next to nothing.
_REST_S: Final = 1.0
_CONNECT_TIMEOUT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_SCANNED_AT_ONCE: Final = 2000


@asynccontextmanager
async def open_redis(url: str, *, connections: int, repeats: int = 0) -> AsyncIterator[Any]:
    """A client of the store at `url`, which need not be up: RESP2, answers as bytes. Closed on exit.

    It waits as long as the store takes: bound each use by `asyncio.timeout`, or by `answering`. redis-py's own bound is
    off, since it uses asyncio.wait_for, which loses a cancellation that comes while it returns (cpython#86296).

    Args:
        connections: Most at a time; whoever comes then waits for one.
        repeats: How often a command whose connection broke is sent again; it may then have been run twice.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        protocol=2,
        max_connections=connections,
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=_LONGEST_PAUSE_S, base=_FIRST_PAUSE_S), repeats),
    )
    client: Any = redis.asyncio.Redis.from_pool(pool)  # its stubs allow for decoded answers and both protocols
    try:
        yield client
    finally:
        await client.aclose()


@asynccontextmanager
async def answering(store: str, *, timeout_s: float) -> AsyncIterator[None]:
    """Raises DependencyUnavailable ("<store> does not answer") for a store that is away, or silent for too long.

    Answers that tell of a defect of ours, such as a wrong type, stay as they are.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (Disconnected, TimedOut, ReadOnlyError, OSError):
        raise DependencyUnavailable(f"{store} does not answer", retry_after_s=1.0, service="redis") from None


class Dispensable:
    """A store that callers can do without: one that fails or is slow has no answer, and is then left alone for a while.

    Args:
        store: What logs call it.
        timeout_s: How long it may take to answer.

    Attributes:
        down: Why it does not answer; empty while it does.
    """

    def __init__(self, store: str, *, timeout_s: float) -> None:
        self.down = ""
        self._store = store
        self._timeout_s = timeout_s
        self._rest_until = 0.0

    async def answers(self, pipeline: Any) -> list[Any] | None:
        """The answers to a pipeline; None where there are none. The first failure in a row is logged."""
        if time.monotonic() < self._rest_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                answers: list[Any] = await pipeline.execute()
        except UNANSWERED as error:
            self._rest_until = time.monotonic() + _REST_S
            if not self.down:
                structlog.get_logger("mesh.redis").warning(f"{self._store} unavailable", error=type(error).__name__)
            self.down = f"{self._store} does not answer"
            return None
        self.down = ""
        return answers


async def unlinked(client: Any, pattern: str, *, within_s: float) -> tuple[int, bool]:
    """Drops keys by pattern, looking through the whole store: how many, and whether it came to the end in time."""
    until = asyncio.get_running_loop().time() + within_s
    dropped = cursor = 0
    while True:
        cursor, found = await client.scan(cursor, match=pattern, count=_SCANNED_AT_ONCE)
        if found:
            dropped += await client.unlink(*found)
        if not cursor:
            return dropped, True
        if asyncio.get_running_loop().time() > until:
            return dropped, False
