"""Frequent searches made before they are asked again, as whoever asked them."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final

from services.mesh.errors import DomainError
from services.mesh.identity import Caller
from services.retrieval.answering import Answering
from services.retrieval.cache_keeping import index_named
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.ports import Question
from services.retrieval.query import Query
from services.retrieval.query_log import QueryLog

_DEFAULT_LIMIT: Final = 100
# Few, since people search meanwhile.
_AT_ONCE: Final = 2
_LONGEST_S: Final = 5.0
# What of the caller's time is kept for the answer.
_MARGIN_S: Final = 0.5


class Warming(Enum):
    """What warming did for a question."""

    WARMED = auto()
    KEPT = auto()
    LEFT_OUT = auto()


class CacheWarmer:
    """Fills the cache with what is asked most.

    Args:
        read: The query of a request that was written down.
    """

    def __init__(
        self, answering: Answering[Any], log: QueryLog, collections: CollectionsMirror, read: Callable[[bytes], Query]
    ) -> None:
        self._answering = answering
        self._log = log
        self._collections = collections
        self._read = read

    async def warm(
        self, tenant: str, collection: str = "", limit: int = 0, *, timeout_s: float | None = None
    ) -> Counter[Warming]:
        """Makes the tenant's most frequent searches, or those that a collection has part in.

        Args:
            limit: Most to make; 0 reads as 100.
            timeout_s: What is left of the caller's time; what does not fit is left out.

        Raises:
            InvalidArgument, CollectionNotFound: There is no collection of that name.
            DependencyUnavailable: The query log does not answer.
        """
        until_s = math.inf if timeout_s is None else time.monotonic() + timeout_s - _MARGIN_S
        index = await index_named(self._collections, tenant, collection) if collection else None
        questions = iter(await self._log.most_asked(tenant, index, limit or _DEFAULT_LIMIT))
        outcomes: Counter[Warming] = Counter()

        async def asking() -> None:
            for question in questions:
                outcomes[await self._asked(question, tenant, until_s)] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(asking())
        return outcomes

    async def _asked(self, question: Question, tenant: str, until_s: float) -> Warming:
        """Makes one search with the rights of who asked it: what it finds is kept for such, and shown to nobody now."""
        left_s = min(_LONGEST_S, until_s - time.monotonic())
        if left_s <= 0:
            return Warming.LEFT_OUT
        principals = frozenset(question.principals)
        who = Caller(tenant, "", principals=principals, anonymous=not principals)
        try:
            made = await self._answering.warm(self._read(question.request), who, timeout_s=left_s)
        except DomainError:  # its collection is gone or disabled, or somebody does not answer
            return Warming.LEFT_OUT
        return Warming.WARMED if made else Warming.KEPT
