"""What workers count of their work."""

import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.jobs.job import ItemChange, Lease, Outcome
from services.jobs.webhook import DeliveryState, Sent

# Seconds: from a look at a text file to a scanned book.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_OUTCOMES = {
    ItemChange.SUCCEED: "succeeded",
    ItemChange.FAIL: "failed",
    ItemChange.SKIP: "skipped",
    ItemChange.CANCEL: "cancelled",
}


class _Families(NamedTuple):
    items: Counter
    stages: Histogram
    chunks: Counter
    size: Counter
    lost: Counter
    leases: Gauge
    oldest: Gauge


@cache
def _families(registry: CollectorRegistry) -> _Families:
    """Made once for a registry, since a name may be taken once."""
    return _Families(
        Counter(
            "ragweave_items",
            "Items of jobs that were worked on: succeeded, failed, skipped, cancelled; or to be tried again.",
            ["outcome"],
            registry=registry,
        ),
        Histogram(
            "ragweave_item_stage_seconds", "Time an item took.", ["stage"], buckets=_BUCKETS_S, registry=registry
        ),
        Counter("ragweave_item_chunks", "Chunks written.", registry=registry),
        Counter("ragweave_item_bytes", "Bytes of the documents they are of.", registry=registry),
        Counter("ragweave_leases_lost", "Leases that ran out while this process still worked.", registry=registry),
        Gauge("ragweave_leases", "Leases this process has.", registry=registry),
        Gauge("ragweave_lease_oldest_seconds", "Since when it has the oldest of them.", registry=registry),
    )


@cache
def _deliveries(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    return (
        Counter(
            "ragweave_webhook_deliveries",
            "Attempts to deliver to webhooks: delivered, failed, or failed and given up (dead).",
            ["outcome"],
            registry=registry,
        ),
        Counter("ragweave_webhooks_disabled", "Webhooks that were disabled, by what came back.", registry=registry),
    )


class WorkFigures:
    """Counts what becomes of leases."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._families = _families(registry)
        self._items = {each: self._families.items.labels(each) for each in (*_OUTCOMES.values(), "retried")}

    def ended(self, lease: Lease, outcome: Outcome) -> None:
        """A piece of work has ended; only items count, not the listing of a source."""
        for stage, took_ms in outcome.timings_ms.items():
            self._families.stages.labels(stage).observe(took_ms / 1000)
        if lease.number > 0:
            self._items[_OUTCOMES[outcome.change]].inc()
            self._families.chunks.inc(outcome.chunks)
            self._families.size.inc(outcome.size_bytes)

    def to_be_tried_again(self, lease: Lease) -> None:
        if lease.number > 0:
            self._items["retried"].inc()

    def lost(self) -> None:
        self._families.lost.inc()

    def holds(self, since: Callable[[], Sequence[float]]) -> None:
        """Has each scrape look at the leases held: by time.monotonic(), since when."""
        self._families.leases.set_function(lambda: len(since()))
        self._families.oldest.set_function(lambda: max((time.monotonic() - each for each in since()), default=0.0))


class DeliveryFigures:
    """Counts what becomes of deliveries."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        ended, self._disabled = _deliveries(registry)
        self._ended = {each: ended.labels(each) for each in ("delivered", "failed", "dead")}

    def sent(self, sent: Sent) -> None:
        """An attempt has been made."""
        outcome = "failed" if sent.state is DeliveryState.PENDING else sent.state.lower()
        self._ended[outcome].inc()
        if sent.disable:
            self._disabled.inc()
