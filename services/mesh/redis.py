"""The one way a process opens the Redis-protocol store, and what it means when the store does not answer."""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import redis.asyncio
from opentelemetry.semconv.attributes.db_attributes import DB_SYSTEM_NAME
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as Disconnected
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as TimedOut

from services.mesh import traces
from services.mesh.breakers import Breaker, breaker_of, failing
from services.mesh.errors import DependencyUnavailable

# What a store that is away, starting, failing over or out of memory answers with, and what it is like not to answer.
UNANSWERED: Final = (RedisError, OSError, TimeoutError)
# The same less what tells of a defect of ours.
_AWAY: Final = (Disconnected, TimedOut, ReadOnlyError, MasterDownError, OutOfMemoryError, OSError)
# How a breaker sees the former, and the latter.
JUDGED: Final = failing(*UNANSWERED)
_AWAY_JUDGED: Final = failing(*_AWAY)

# What a store says that may not write: it has no room for its log, or too few replicas.
_UNABLE: Final = ("MISCONF", "NOREPLICAS")

# The store of the mesh, as its breaker is known.
REDIS: Final = "redis"
_CONNECT_TIMEOUT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.02
# After these the connection is closed, so that the next command looks up anew who serves at the address: at one that
# has become a replica every write would fail for ever. Nothing was run, so a repeat runs it once.
_MOVED: Final = (Disconnected, TimedOut, ReadOnlyError, MasterDownError)
# A peer that vanished without a word: the kernel finds out after 15 s of silence, or 10 s after what was sent last, on
# connections where nobody waits with a bound of its own, such as those that wait for news.
_TCP: Final[Mapping[str, Any]] = {
    "socket_keepalive": True,
    "socket_keepalive_options": {
        socket.TCP_KEEPIDLE: 5,
        socket.TCP_KEEPINTVL: 5,
        socket.TCP_KEEPCNT: 2,
        socket.TCP_USER_TIMEOUT: 10_000,
    },
}
_LONGEST_PAUSE_S: Final = 0.5
_SCANNED_AT_ONCE: Final = 2000
_REDIS: Final = {DB_SYSTEM_NAME: "redis"}


@asynccontextmanager
async def open_redis(
    url: str, *, connections: int, repeats: int = 0, known_as: Sequence[str] = (REDIS,)
) -> AsyncIterator[Any]:
    """A client of the store at `url`, which need not be up: RESP2, answers as bytes. Closed on exit.

    It waits as long as the store takes: bound each use by `asyncio.timeout`, or by `answering`. redis-py's own bound is
    off, since it uses asyncio.wait_for, which loses a cancellation that comes while it returns (cpython#86296).

    Args:
        connections: Most at a time; whoever comes then waits for one.
        repeats: How often a command whose connection broke is sent again, and each time a connection tried again; it
            may then have been run twice.
        known_as: The dependencies whose breakers look whether this store answers again.
    """
    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        **({} if url.startswith("unix:") else _TCP),
        protocol=2,
        max_connections=connections,
        timeout=None,
        socket_timeout=None,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        retry=Retry(ExponentialBackoff(cap=_LONGEST_PAUSE_S, base=_FIRST_PAUSE_S), repeats, _MOVED),
    )
    client: Any = redis.asyncio.Redis.from_pool(pool)  # its stubs allow for decoded answers and both protocols
    async with AsyncExitStack() as opened:
        opened.push_async_callback(client.aclose)
        for dependency in known_as:
            await opened.enter_async_context(breaker_of(dependency).looking(lambda: _ping(pool)))
        yield client


async def _ping(pool: Any) -> None:
    """Over a connection of its own, which is not repeated; raises where the store does not answer."""
    connection = pool.make_connection()
    try:
        await connection.connect_check_health(retry_socket_connect=False)
        await connection.send_command("PING")
        await connection.read_response()
    finally:
        await connection.disconnect()


@asynccontextmanager
async def answering(store: str, breaker: Breaker, *, timeout_s: float) -> AsyncIterator[None]:
    """Raises DependencyUnavailable ("<store> does not answer") for a store that is away, or silent for too long.

    So it does, without asking, while the store's breaker is open, and for a store that may not write. Answers that
    tell of a defect of ours, such as a wrong type, stay as they are.
    """
    try:
        with traces.part(store, _REDIS), breaker.asking(_AWAY_JUDGED):
            async with asyncio.timeout(timeout_s):
                yield
    except _AWAY:
        raise DependencyUnavailable(f"{store} does not answer", retry_after_s=1.0, service=breaker.dependency) from None
    except ResponseError as error:
        if not str(error).startswith(_UNABLE):
            raise
        raise DependencyUnavailable(
            f"{store} cannot keep anything now", retry_after_s=1.0, service=breaker.dependency
        ) from None


class Dispensable:
    """A store that callers can do without: one that fails, is slow or is left alone by its breaker has no answer.

    Args:
        dependency: What its breaker calls it, such as "embedding cache".
        timeout_s: How long it may take to answer.
    """

    def __init__(self, dependency: str, *, timeout_s: float) -> None:
        self.breaker = breaker_of(dependency)
        self._timeout_s = timeout_s

    @property
    def down(self) -> str:
        """Why it does not answer; empty while it does."""
        return f"the {self.breaker.dependency} does not answer" if self.breaker.failures else ""

    async def answers(self, pipeline: Any) -> list[Any] | None:
        """The answers to a pipeline; None where there are none."""
        try:
            with traces.part(self.breaker.dependency, _REDIS), self.breaker.asking(JUDGED):
                async with asyncio.timeout(self._timeout_s):
                    answers: list[Any] = await pipeline.execute()
        except (DependencyUnavailable, *UNANSWERED):
            return None
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
