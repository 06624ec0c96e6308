"""Searches as they are served: from the cache where it can, with what one call can tell of its answer."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from services.mesh.identity import Caller
from services.retrieval.cache import CacheUse, Made, ResultCache, Status
from services.retrieval.query import Query
from services.retrieval.results import asked
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.stages import Degraded, Stages
from services.retrieval.usage import Usage

Render: TypeAlias = Callable[[Answer], bytes]


class Outcome(Protocol):
    """What an answer says of itself: hits in all pages, and whether it went without a stage."""

    @property
    def total(self) -> int: ...

    @property
    def degraded(self) -> bool: ...


S = TypeVar("S", bound=Outcome)


@dataclass(frozen=True, slots=True)
class Served(Generic[S]):
    """An answer and how it came about.

    Attributes:
        answer: As it is sent; nobody else has it.
        timings_s: Seconds by stage, of this call.
        degraded: Set where the cache could not take part.
    """

    answer: S
    use: CacheUse
    timings_s: Mapping[str, float]
    degraded: Degraded | None


class Answering(Generic[S]):
    """Finds passages for callers, by the cache or by the retriever.

    Whether the caller may search the collections is looked at for every call; the cache knows no rights but those in
    what is asked.

    Args:
        usage: Told how each search ended.
        render: An answer as it is kept.
        read: What is kept, as it is sent.
    """

    def __init__(
        self, retriever: Retriever, cache: ResultCache, usage: Usage, render: Render, read: Callable[[bytes], S]
    ) -> None:
        self._retriever = retriever
        self._cache = cache
        self._usage = usage
        self._render = render
        self._read = read

    async def search(self, query: Query, who: Caller, *, timeout_s: float | None = None) -> Served[S]:
        """As Retriever.search, which see for what it raises."""
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all)
        with self._usage.search(who.tenant) as search, stages.timed("total"):
            views, plan = await self._retriever.prepared(query, who, stages, search)
            making_s = 0.0

            async def make() -> Made:
                nonlocal making_s
                began_s = time.perf_counter()
                answer = await self._retriever.run(query, plan, views, stages)
                making_s = time.perf_counter() - began_s
                return Made(self._render(answer), whole=not answer.degraded)

            if plan.resumed is not None:  # its hits are looked up, which takes no longer
                body, use = (await make()).body, CacheUse()
            else:
                with stages.timed("cache"):
                    body, use = await self._cache.answer(
                        asked(query, plan, views, who),
                        make,
                        control=query.cache_control,
                        timeout_s=stages.remaining_s(),
                        lookup_s=stages.budget_s("cache"),
                        require_all=query.require_all,
                    )
                stages.timings_s["cache"] -= making_s
            answer = self._read(body)
            search.total, search.cached = answer.total, use.status is Status.HIT
            search.degraded = answer.degraded or bool(use.down)
        return Served(answer, use, stages.timings_s, Degraded("cache", use.down) if use.down else None)
