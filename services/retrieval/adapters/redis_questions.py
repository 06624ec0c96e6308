"""The query log in a store of the Redis protocol: a few sorted sets a tenant, each of some hours."""

import base64
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from services.mesh.redis import Dispensable, answering, open_redis
from services.retrieval.adapters.redis_results import mark
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Question

_PREFIX: Final = "ragweave:questions"
_LOG: Final = "query log"
_CONNECTIONS: Final = 4
# Different questions a tenant in one set; the rarest make room.
_KEPT: Final = 1000
# Sets that a question may be in; one is dropped as a whole once what is oldest in it is too old.
_SETS: Final = 6
_WRITE_TIMEOUT_S: Final = 1.0
# What one look through all keys may take.
_LOOK_S: Final = 15.0
_SCANNED_AT_ONCE: Final = 2000


class RedisQuestions:
    """Fulfils Questions. A member of a set is a question, its score how often it was asked in that time."""

    def __init__(self, client: Any, *, keep_s: float) -> None:
        self._redis = client
        self._keep_s = keep_s
        self._writing = Dispensable(_LOG, timeout_s=_WRITE_TIMEOUT_S)

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, keep_s: float) -> AsyncIterator[Self]:
        """The log in the store at `url`, which need not be up.

        Args:
            keep_s: How long a question is kept at most after it was asked.
        """
        async with open_redis(url, connections=_CONNECTIONS, known_as=(_LOG,)) as client:
            yield cls(client, keep_s=keep_s)

    async def add(self, counts: Mapping[str, Mapping[Question, int]]) -> None:
        span_s = self._keep_s / _SETS
        began_s = time.time() // span_s * span_s
        pipeline = self._redis.pipeline(transaction=False)
        for tenant, questions in counts.items():
            name = f"{_prefix(tenant)}{round(began_s)}"
            for question, count in questions.items():
                pipeline.zincrby(name, count, _member(question))
            pipeline.zremrangebyrank(name, 0, -_KEPT - 1)
            pipeline.pexpireat(name, round((began_s + self._keep_s) * 1000))
        await self._writing.answers(pipeline)

    async def most_asked(self, tenant: str, index: IndexId | None, limit: int) -> list[Question]:
        asked: Counter[Question] = Counter()
        async with answering("the query log", self._writing.breaker, timeout_s=_LOOK_S):
            async for name in self._names(tenant):
                for member, count in await self._redis.zrange(name, 0, -1, withscores=True):
                    question = _question(member)
                    if index is None or index in question.indexes:
                        asked[question] += count
        return [question for question, _ in asked.most_common(limit)]

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        gone: set[bytes] = set()
        async with answering("the query log", self._writing.breaker, timeout_s=_LOOK_S):
            async for name in self._names(tenant):
                members = await self._redis.zrange(name, 0, -1)
                own = [each for each in members if index is None or index in _question(each).indexes]
                if own:
                    await self._redis.zrem(name, *own)
                gone.update(own)
        return len(gone)

    def _names(self, tenant: str) -> AsyncIterator[bytes]:
        """Looked for, not computed: a replica of other settings may have made one."""
        names: AsyncIterator[bytes] = self._redis.scan_iter(match=f"{_prefix(tenant)}*", count=_SCANNED_AT_ONCE)
        return names


def _prefix(tenant: str) -> str:
    return f"{_PREFIX}:t{mark(tenant)}:"


def _member(question: Question) -> bytes:
    request = base64.b64encode(question.request).decode()
    return json.dumps([request, question.indexes, question.principals]).encode()


def _question(member: bytes) -> Question:
    request, indexes, principals = json.loads(member)
    return Question(base64.b64decode(request), tuple(map(IndexId, indexes)), tuple(principals))
