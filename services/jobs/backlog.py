"""Tells metrics what is left to do, looked up now and then rather than at a scrape: Redis may be slow; and health."""

import asyncio
import math
from functools import cache
from typing import Final, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Gauge

from services.jobs.ports_backlog import Backlog, BacklogStore
from services.mesh.errors import DependencyUnavailable
from services.mesh.reports import QueueReport

# Looked at at most: what the store does for it holds up everybody else, for about a millisecond with as many.
MOST: Final = 1000


async def queues_of(store: BacklogStore) -> list[QueueReport]:
    """What waits for workers, as health tells it. Raises DependencyUnavailable where the store does not answer."""
    found = await store.backlog(MOST)
    return [
        QueueReport(
            "jobs",
            found.waiting,
            found.leased,
            found.delayed,
            found.oldest_s if found.waiting + found.leased else None,
            found.late,
            found.silence_s if found.late else None,
        ),
        QueueReport("webhook deliveries", found.deliveries, oldest_s=found.overdue_s if found.deliveries else None),
    ]


class _Families(NamedTuple):
    items: Gauge
    oldest: Gauge
    late: Gauge
    silence: Gauge
    dead_letters: Gauge
    deliveries: Gauge
    overdue: Gauge


@cache
def _families(registry: CollectorRegistry) -> _Families:
    """Made once for a registry, since a name may be taken once."""
    return _Families(
        Gauge("ragweave_queue_items", "Pieces of work: waiting, leased, delayed.", ["state"], registry=registry),
        Gauge("ragweave_queue_oldest_seconds", "Since when the oldest of them is queued.", registry=registry),
        Gauge("ragweave_queue_late_leases", "Leases that ran out and nobody took over.", registry=registry),
        Gauge("ragweave_queue_silence_seconds", "Longest silence of the holder of such a lease.", registry=registry),
        Gauge("ragweave_dead_letters", "Items that failed for good and are still kept.", registry=registry),
        Gauge("ragweave_webhook_deliveries_waiting", "Deliveries not yet made or given up.", registry=registry),
        Gauge("ragweave_webhook_overdue_seconds", "How late the next delivery is.", registry=registry),
    )


class BacklogFigures:
    """Looks into the store every `look_s` seconds. Every replica of the jobs service tells the same."""

    def __init__(self, store: BacklogStore, *, look_s: float, registry: CollectorRegistry = REGISTRY) -> None:
        self._store = store
        self._look_s = look_s
        self._families = _families(registry)

    async def run(self) -> None:
        """Until cancelled, or the store fails; then nothing is told, rather than what was.

        Raises:
            DependencyUnavailable: the store does not answer; begin anew.
        """
        while True:
            await self.look()
            await asyncio.sleep(self._look_s)

    async def look(self) -> None:
        """Tells what is left to do now; raises as `run` does."""
        try:
            self._tell(await self._store.backlog(MOST))
        except DependencyUnavailable:
            self._tell(None)
            raise

    def _tell(self, backlog: Backlog | None) -> None:
        told = backlog or Backlog()
        for gauge, value in (
            (self._families.items.labels("waiting"), told.waiting),
            (self._families.items.labels("leased"), told.leased),
            (self._families.items.labels("delayed"), told.delayed),
            (self._families.oldest, told.oldest_s),
            (self._families.late, told.late),
            (self._families.silence, told.silence_s),
            (self._families.dead_letters, told.dead_letters),
            (self._families.deliveries, told.deliveries),
            (self._families.overdue, told.overdue_s),
        ):
            gauge.set(math.nan if backlog is None else value)
