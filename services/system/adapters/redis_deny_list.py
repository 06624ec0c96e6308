"""The deny list in Redis, where every process reads it."""

from collections.abc import Sequence
from typing import Any, Final

from services.mesh.breakers import breaker_of
from services.mesh.deny_list import DIGEST, KEY, LIST, Denial, packed
from services.mesh.redis import REDIS, answering

_STORE: Final = "the deny list's store"
_TIMEOUT_S: Final = 5.0


class RedisDenyList:
    """Fulfils DenyListPublisher."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._breaker = breaker_of(REDIS)

    async def publish(self, denials: Sequence[Denial]) -> None:
        content, digest = packed(denials)
        async with answering(_STORE, self._breaker, timeout_s=_TIMEOUT_S):
            await self._redis.hset(KEY, mapping={LIST: content, DIGEST: digest})

    async def check(self) -> None:
        async with answering(_STORE, self._breaker, timeout_s=_TIMEOUT_S):
            await self._redis.ping()
