"""Answers that all replicas share, in a store of the Redis protocol."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, Self

from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import Dispensable, answering, open_redis, unlinked
from services.retrieval.chunks import IndexId
from services.retrieval.results import Asked, Entry

_PREFIX: Final = "ragweave:results"
# Apart: a search waits much less for an answer than one is given to be written.
_READS: Final = "shared result cache"
_WRITES: Final = "shared result cache (writing)"
# Answers of another release may be made in another way.
_RELEASE: Final = version("ragweave")
_CONNECTIONS: Final = 8
_DIGEST_BYTES: Final = 16
# Answers wait this long for others to be written with, and let the callers have them first.
_LINGER_S: Final = 0.2
# Bytes of answers waiting to be written; what comes above is not written, and made again one day.
_BACKLOG: Final = 16 * 2**20
_WRITE_TIMEOUT_S: Final = 1.0
# What one look through all keys may take.
_DROP_S: Final = 15.0


class RedisResults:
    """Fulfils SharedResults. A value is a line about the answer, with its digest, then the answer.

    Args:
        era: Of the index. Answers of another, whatever their revision, are not of this index: it has been restored.
    """

    def __init__(self, client: Any, *, ttl_s: float, timeout_s: float, era: str = "") -> None:
        self._redis = client
        self._era = f"-{era}" if era else ""
        self._ttl_s = ttl_s
        self._reading = Dispensable(_READS, timeout_s=timeout_s)
        self._writing = Dispensable(_WRITES, timeout_s=_WRITE_TIMEOUT_S)
        self._unwritten: dict[str, bytes] = {}
        self._waiting = 0
        self._writer: asyncio.Task[None] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, ttl_s: float, timeout_s: float, era: str = "") -> AsyncIterator[Self]:
        """The answers in the store at `url`, which need not be up; on exit, what is unwritten is written.

        Args:
            timeout_s: How long a search waits for one.
            era: See the class.
        """
        async with open_redis(url, connections=_CONNECTIONS, known_as=(_READS, _WRITES)) as client:
            made = cls(client, ttl_s=ttl_s, timeout_s=timeout_s, era=era)
            try:
                yield made
            finally:
                await made.settled()

    @property
    def down(self) -> str:
        return self._reading.down

    async def get(self, asked: Asked) -> Entry | None:
        answers = await self._reading.answers(self._redis.pipeline(transaction=False).get(self._name(asked)))
        return _entry(asked, answers[0]) if answers and answers[0] else None

    def put(self, entry: Entry) -> None:
        value = _value(entry)
        if self._waiting + len(value) > _BACKLOG:
            return
        self._waiting += len(value)
        self._unwritten[self._name(entry.asked)] = value
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        """Looks through all keys of the store: names tell which tenant's and which indexes' answers they are."""
        await self.settled()
        pattern = f"{_PREFIX}:*:t{mark(tenant)}:{'' if index is None else f'*{mark(index)}'}*"
        async with answering("the shared result cache", self._writing.breaker, timeout_s=2 * _DROP_S):
            dropped, whole = await unlinked(self._redis, pattern, within_s=_DROP_S)
        if not whole:
            raise DependencyUnavailable("the shared result cache holds more than could be looked through at once")
        return dropped

    async def settled(self) -> None:
        """Returns when what was put so far is written, or could not be."""
        if self._writer is not None:
            await self._writer

    def _name(self, asked: Asked) -> str:
        indexes = ".".join(map(mark, asked.indexes))
        return f"{_PREFIX}:{_RELEASE}{self._era}:t{mark(asked.tenant)}:{indexes}:{asked.key.hex()}"

    async def _write(self) -> None:
        try:
            while self._unwritten:
                await asyncio.sleep(_LINGER_S)
                values, self._unwritten, self._waiting = self._unwritten, {}, 0
                pipeline = self._redis.pipeline(transaction=False)
                for name, value in values.items():
                    pipeline.set(name, value, px=round(self._ttl_s * 1000))
                await self._writing.answers(pipeline)
        finally:
            self._writer = None


def mark(name: str) -> str:
    """What stands for a name in keys."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _digest(head: bytes, body: bytes) -> str:
    return hashlib.blake2b(head + body, digest_size=_DIGEST_BYTES).hexdigest()


def _value(entry: Entry) -> bytes:
    head = json.dumps([entry.revisions, entry.created_s]).encode()
    return b"%s\n%s\n%s" % (_digest(head, entry.body).encode(), head, entry.body)


def _entry(asked: Asked, value: bytes) -> Entry | None:
    """The entry; none where the value is not whole."""
    try:
        digest, head, body = value.split(b"\n", 2)
        if digest.decode() != _digest(head, body):
            return None
        revisions, created_s = json.loads(head)
        return Entry(asked, tuple(map(int, revisions)), body, float(created_s))
    except (ValueError, TypeError):
        return None
