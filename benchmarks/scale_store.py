"""One index of one vector store as it grows: what writing, searching, building and keeping it takes at a size."""

import asyncio
import itertools
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from benchmarks.measure import percentile
from benchmarks.scale_corpus import CHUNKS_A_DOCUMENT, DIMENSION, FILTERS, Corpus
from benchmarks.scale_feed import Feed
from services.retrieval.chunks import IndexId, VectorQuery
from services.retrieval.ports import VectorStore

INDEX: Final = IndexId("scale")
CALLERS: Final = 8

# What leaves a stage out of a question that has both.
_MODES: Final[Mapping[str, Mapping[str, Any]]] = {"dense": {"sparse": None}, "sparse": {"dense": None}, "hybrid": {}}
_COMPARED: Final = 50
_POLL_S: Final = 0.2
_BETWEEN_SEARCHES_S: Final = 0.05
_QUERIES_BESIDE: Final = 200


@dataclass(frozen=True)
class Spread:
    """What some calls took, in milliseconds."""

    calls: int
    p50_ms: float
    p95_ms: float
    most_ms: float

    @classmethod
    def of(cls, taken_ms: Sequence[float]) -> "Spread | None":
        """None of no calls."""
        if not taken_ms:
            return None
        p50, p95 = (round(percentile(taken_ms, percent), 3) for percent in (50, 95))
        return cls(len(taken_ms), p50, p95, round(max(taken_ms), 3))


@dataclass(frozen=True)
class Growth:
    """What it took to come to a size.

    Attributes:
        chunks_per_s: Written, one document after the other, by the time that was waited for writes.
        write: Of a document.
        settling_s: From the last write until the store had no more graphs to build than its policy leaves.
        beside_writes: Hybrid searches, 20 a second, while chunks were written, and graphs built of them.
        beside_builds: Such searches while graphs were built and nothing written.
    """

    chunks_per_s: float
    write: Spread | None
    settling_s: float
    beside_writes: Spread | None
    beside_builds: Spread | None


@dataclass(frozen=True)
class Searched:
    """What searches take, one at a time.

    Attributes:
        cpu_ms: Processor time of the engines that one takes; None where it cannot be told.
        recall: Of the ten that exact search finds, what part a search by meaning finds; None where it is no part.
    """

    mode: str
    narrowed: str
    taken: Spread
    cpu_ms: float | None
    recall: float | None


class GrowingIndex:
    """An index that is filled from a corpus, part by part.

    Args:
        documents: How many it has.
        settled: Whether the store has built what its policy wants built.
        used_s: Processor time that its engines have used, where that can be told.
    """

    def __init__(
        self,
        store: VectorStore,
        corpus: Corpus,
        feed: Feed,
        *,
        documents: int,
        settled: Callable[[], Awaitable[bool]],
        used_s: Callable[[], float] | None = None,
    ) -> None:
        self._store = store
        self._corpus = corpus
        self._feed = feed
        self._settled = settled
        self._used_s = used_s
        self.documents = documents

    async def grow(self, chunks: int) -> Growth:
        """Adds documents until there are so many chunks, and waits for the graphs."""
        await self._store.ensure_index(INDEX, DIMENSION)
        wanted = chunks // CHUNKS_A_DOCUMENT
        taken_s, beside_ms, builds = [], defaultdict[str, list[float]](list), False
        async with beside(self._search_on(beside_ms, lambda: "builds" if builds else "writes")):
            async for document in self._feed.documents(self.documents, wanted):
                began_s = time.perf_counter()
                await self._store.upsert(INDEX, document)
                taken_s.append(time.perf_counter() - began_s)
            self.documents = wanted
            builds, began_s = True, time.perf_counter()
            await self._until_settled()
            settling_s = time.perf_counter() - began_s
        return Growth(
            chunks_per_s=round(len(taken_s) * CHUNKS_A_DOCUMENT / sum(taken_s), 1) if taken_s else 0.0,
            write=Spread.of([each * 1e3 for each in taken_s]),
            settling_s=round(settling_s, 1),
            beside_writes=Spread.of(beside_ms.get("writes", [])),
            beside_builds=Spread.of(beside_ms.get("builds", [])),
        )

    async def searched(self, queries: int, budget_s: float) -> list[Searched]:
        """Each mode, with each filter: so many searches, or fewer where they take longer than the budget."""
        found = []
        for narrowed, (mode, without) in itertools.product(FILTERS, _MODES.items()):
            asked = [replace(query, **without) for query in self._queries(queries, narrowed)]
            await self._taken_ms(asked[:_COMPARED], budget_s)
            before_s = self._used_s() if self._used_s else 0.0
            taken = Spread.of(await self._taken_ms(asked, budget_s))
            assert taken is not None, "a search is made, however long it takes"
            cpu_ms = round((self._used_s() - before_s) * 1e3 / taken.calls, 3) if self._used_s else None
            recall = await self._recall(asked[:_COMPARED], budget_s) if mode == "dense" else None
            found.append(Searched(mode, narrowed, taken, cpu_ms, recall))
        return found

    async def at_once(self, queries: int, budget_s: float) -> tuple[float, Spread | None]:
        """Hybrid searches a second, of CALLERS at a time, and what they take."""
        waiting = iter(self._queries(queries))
        began_s = time.perf_counter()
        each = await asyncio.gather(*(self._taken_ms(waiting, budget_s) for _ in range(CALLERS)))
        taken_ms = list(itertools.chain.from_iterable(each))
        return round(len(taken_ms) / (time.perf_counter() - began_s), 1), Spread.of(taken_ms)

    async def _until_settled(self) -> None:
        while True:
            if await self._settled():
                return
            await asyncio.sleep(_POLL_S)

    def _queries(self, count: int, narrowed: str = "none") -> list[VectorQuery]:
        return list(self._corpus.queries(count, max(1, self.documents), FILTERS[narrowed]))

    async def _taken_ms(self, queries: Sequence[VectorQuery] | Iterator[VectorQuery], budget_s: float) -> list[float]:
        """Milliseconds of each, until the budget is spent."""
        taken_ms: list[float] = []
        until_s = time.perf_counter() + budget_s
        for query in queries:
            began_s = time.perf_counter()
            await self._store.search(INDEX, query)
            taken_ms.append((time.perf_counter() - began_s) * 1e3)
            if time.perf_counter() > until_s:
                break
        return taken_ms

    async def _recall(self, queries: Sequence[VectorQuery], budget_s: float) -> float:
        """What part of the ten nearest the graph finds, on average."""
        shares, until_s = [], time.perf_counter() + budget_s
        for query in queries:
            exact = await self._keys(replace(query, exact=True))
            if exact:
                shares.append(len(exact & await self._keys(query)) / len(exact))
            if time.perf_counter() > until_s:
                break
        return round(statistics.fmean(shares), 4) if shares else 1.0

    async def _keys(self, query: VectorQuery) -> set[int]:
        return {hit.chunk.key for hit in (await self._store.search(INDEX, query)).hits}

    async def _search_on(self, taken_ms: Mapping[str, list[float]], work: Callable[[], str]) -> None:
        """Makes searches, 20 a second at most, and notes what they take by what goes on meanwhile."""
        for query in itertools.cycle(self._queries(_QUERIES_BESIDE)):
            began_s, during = time.perf_counter(), work()
            await self._store.search(INDEX, query)
            taken_ms[during].append((time.perf_counter() - began_s) * 1e3)
            await asyncio.sleep(_BETWEEN_SEARCHES_S)


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Has work that never ends go on inside the block; where it fails, so does the block."""
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
        yield
        task.cancel()
