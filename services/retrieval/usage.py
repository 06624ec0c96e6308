"""Counts searches as they end, by tenant, collection and hour, and hands the figures on every few seconds."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self
from uuid import uuid4

import structlog

from services.mesh.errors import DependencyUnavailable
from services.mesh.latency import bucket_of
from services.retrieval.collection import CollectionView
from services.retrieval.ports import UsageSink
from services.retrieval.tally import HOUR_S, HourTally

MAX_ROWS: Final = 500
"""Rows of one batch; the contract's own bound."""

# The sink knows a batch again for two days.
_GIVEN_UP_S: Final = 24 * 3600.0
_LAST_CHANCE_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Batch:
    batch_id: str
    tallies: Sequence[HourTally]
    made_s: float


class Search:
    """One search on its way. A block that raises was not answered.

    Attributes:
        views: The collections, once they are known.
        total: Hits in all pages.
        cached: The result cache answered.
        degraded: The answer went without a stage.
    """

    __slots__ = ("_began_s", "_counts", "_usage", "cached", "degraded", "tenant", "total", "views")

    def __init__(self, usage: "Usage", tenant: str, counts: bool) -> None:
        self.tenant = tenant
        self.views: Sequence[CollectionView] = ()
        self.total = 0
        self.cached = False
        self.degraded = False
        self._usage = usage
        self._counts = counts

    def __enter__(self) -> Self:
        self._began_s = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._counts:
            return
        if kind is None:
            self._usage.answered(self, time.perf_counter() - self._began_s)
        else:
            self._usage.failed(self)


class Usage:
    """Figures of this process, until they are handed on.

    A batch that was sent, and may or may not have arrived, is sent again under its id until it has; what is counted
    meanwhile waits for its turn. So nothing counts twice, and what waits is bounded by collections and hours.

    Args:
        interval_s: Seconds between two batches: what a process that is killed loses, while batches are taken.
        most: Tallies that may wait; beyond that, what would begin another is not counted.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        sink: UsageSink,
        *,
        interval_s: float = 10.0,
        most: int = 100_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sink = sink
        self._interval_s = interval_s
        self._most = most
        self._clock = clock
        self._tallies: dict[tuple[str, str, int], HourTally] = {}
        self._unsent: _Batch | None = None
        self._uncounted = 0
        self._arrives = True
        self._log = structlog.get_logger("retrieval.usage")

    def search(self, tenant: str, *, counts: bool = True) -> "Search":
        """A search that is counted when its block ends, unless it does not count; see there."""
        return Search(self, tenant, counts)

    def answered(self, search: "Search", seconds: float) -> None:
        """Counts a search that was answered, for each of its collections."""
        hour, bucket = int(self._clock()) // HOUR_S, bucket_of(seconds)
        self._tally(search.tenant, "", "", hour).answered(bucket, search)
        for view in search.views:
            self._tally(search.tenant, view.uid, view.collection_id, hour).answered(bucket, search)

    def failed(self, search: "Search") -> None:
        """Counts a search that was not answered, for those of its collections that are known."""
        hour = int(self._clock()) // HOUR_S
        self._tally(search.tenant, "", "", hour).failed()
        for view in search.views:
            self._tally(search.tenant, view.uid, view.collection_id, hour).failed()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Hands on inside the block, and what is left at its end."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_CHANCE_S):
                    await self.flush()

    async def flush(self) -> None:
        """Hands on all that was counted before, as far as it is taken now.

        What is counted meanwhile waits for the next time: under load there is always some.
        """
        waiting = len(self._tallies)
        while batch := self._unsent or self._taken(min(waiting, MAX_ROWS)):
            if batch is not self._unsent:
                waiting -= len(batch.tallies)
            self._unsent = batch
            if self._clock() - batch.made_s > _GIVEN_UP_S:
                self._log.error("usage is lost: nobody has taken it for a day", tallies=len(batch.tallies))
            else:
                try:
                    await self._sink.record(batch.batch_id, batch.tallies)
                except DependencyUnavailable as error:
                    self._told(arrives=False, reason=error.message)
                    return
                except Exception:
                    self._log.exception("usage is lost: it is not taken", tallies=len(batch.tallies))
                else:
                    self._told(arrives=True)
            self._unsent = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.flush()

    def _tally(self, tenant: str, uid: str, collection_id: str, hour: int) -> HourTally:
        key = tenant, uid, hour
        tally = self._tallies.get(key)
        if tally is None:
            tally = HourTally(tenant, uid, collection_id, hour)
            if len(self._tallies) < self._most:
                self._tallies[key] = tally
            else:
                self._uncounted += 1
        return tally

    def _taken(self, most: int) -> _Batch | None:
        """The oldest of what waits, as a batch of its own; None where nothing does."""
        if self._uncounted:
            self._log.error("searches were not counted: too many tallies wait", searches=self._uncounted)
            self._uncounted = 0
        keys = [key for key, _ in zip(self._tallies, range(most), strict=False)]
        if not keys:
            return None
        return _Batch(uuid4().hex, [self._tallies.pop(key) for key in keys], self._clock())

    def _told(self, *, arrives: bool, reason: str = "") -> None:
        """Says so once, not every time."""
        if arrives is not self._arrives:
            self._arrives = arrives
            if arrives:
                self._log.info("usage is taken again")
            else:
                self._log.warning("usage waits", reason=reason)
