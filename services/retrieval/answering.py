"""Searches as they are served: from the cache where it can, with what one call can tell of its answer."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from services.mesh import traces
from services.mesh.identity import Caller
from services.retrieval.cache import CacheUse, Made, ResultCache, Status
from services.retrieval.collection import CollectionView
from services.retrieval.query import CacheControl, Plan, Query
from services.retrieval.query_log import QueryLog
from services.retrieval.results import asked
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.stages import Degraded, Ran, Stages
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
        ran: How the stages of this call ran that come before the answer is made, where anybody asks.
    """

    answer: S
    use: CacheUse
    timings_s: Mapping[str, float]
    degraded: Degraded | None
    ran: Sequence[Ran]


class Answering(Generic[S]):
    """Finds passages for callers, by the cache or by the retriever.

    Whether the caller may search the collections is looked at for every call; the cache knows no rights but those in
    what is asked.

    Args:
        log: Told of each question that was answered.
        usage: Told how each search ended.
        render: An answer as it is kept.
        read: What is kept, as it is sent.
    """

    def __init__(
        self,
        retriever: Retriever,
        cache: ResultCache,
        log: QueryLog,
        usage: Usage,
        render: Render,
        read: Callable[[bytes], S],
    ) -> None:
        self._retriever = retriever
        self._cache = cache
        self._log = log
        self._usage = usage
        self._render = render
        self._read = read

    async def search(
        self, query: Query, who: Caller, written: Callable[[], bytes], *, timeout_s: float | None = None
    ) -> Served[S]:
        """As Retriever.search, which see for what it raises.

        Args:
            written: Gives the request as the query log keeps it.
        """
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all, explain=query.explain)
        with self._usage.search(who.tenant) as search, stages.whole():
            views, plan = await self._retriever.prepared(query, who, stages, search)
            ran = [*stages.handed_over()]
            making_s = 0.0

            async def make() -> Made:
                nonlocal making_s
                began_s = time.perf_counter()
                made = await self._made(query, plan, views, stages)
                making_s = time.perf_counter() - began_s
                return made

            if plan.resumed is not None:  # its hits are looked up, which takes no longer
                body, use = (await make()).body, CacheUse()
            else:
                cache_s = stages.budget_s("cache")
                with stages.timed("cache"):
                    question = query.lately.of((asked, plan, who, *views), lambda: asked(query, plan, views, who))
                    body, use = await self._cache.answer(
                        question,
                        make,
                        control=query.cache_control,
                        timeout_s=stages.remaining_s(),
                        lookup_s=cache_s,
                        require_all=query.require_all,
                    )
                stages.timings_s["cache"] -= making_s
                if query.explain:
                    ran.append(Ran("cache", "", stages.timings_s["cache"], cache_s, detail=_told(use)))
                if query.cache_control is not CacheControl.BYPASS:
                    self._log.note(question, written, who)
            answer = self._read(body)
            search.total, search.cached = answer.total, use.status is Status.HIT
            search.degraded = answer.degraded or bool(use.down)
            traces.note(lambda: _noted(stages, use, search.total))
        return Served(answer, use, stages.timings_s, Degraded("cache", use.down) if use.down else None, ran)

    async def warm(self, query: Query, who: Caller, *, timeout_s: float | None) -> bool:
        """Has the answer kept for the next who asks; whether it had to be made. Nobody's search: it counts as none.

        Raises: as `search` does where all stages are required, and where answers cannot be kept.
        """
        stages = Stages(timeout_s=timeout_s, require_all=True, explain=query.explain)
        search = self._usage.search(who.tenant, counts=False)
        views, plan = await self._retriever.prepared(query, who, stages, search)
        stages.handed_over()  # who asks later has that of a call of their own
        return await self._cache.fill(
            asked(query, plan, views, who),
            lambda: self._made(query, plan, views, stages),
            timeout_s=stages.remaining_s(),
            lookup_s=stages.budget_s("cache"),
        )

    async def _made(self, query: Query, plan: Plan, views: Sequence[CollectionView], stages: Stages) -> Made:
        answer = await self._retriever.run(query, plan, views, stages)
        return Made(self._render(answer), whole=not answer.degraded)


def _noted(stages: Stages, use: CacheUse, total: int) -> traces.Attributes:
    """What the span of a search says of it: a span for each stage would cost as much as some stages."""
    return {
        **{f"ragweave.search.{stage}_ms": round(took_s * 1e3, 3) for stage, took_s in stages.timings_s.items()},
        "ragweave.search.cache": use.status.name,
        "ragweave.search.hits": total,
        "ragweave.search.left_out": [each.stage for each in stages.degraded],
    }


def _told(use: CacheUse) -> str:
    """What the cache did, and so of when the stages after it are."""
    if use.down:
        return f"left out: {use.down}"
    if use.status is Status.HIT:
        return f"{use.status.name} {use.layer.name}, {use.age_s:.3f} s old: the stages after it are of its making"
    return use.status.name
