"""What becomes of searches, as metrics tell it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

# Seconds; dense where the stages of a search lie.
BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@cache
def _families(registry: CollectorRegistry) -> tuple[Histogram, Counter]:
    """Made once for a registry, since a name may be taken once. Stages are those that the code names."""
    return (
        Histogram(
            "ragweave_search_stage_seconds",
            "Time a stage of a search took; total is all of it.",
            ["stage"],
            buckets=BUCKETS_S,
            registry=registry,
        ),
        Counter("ragweave_search_degraded", "Stages left out of answers.", ["stage"], registry=registry),
    )


@cache
def _stage(stage: str, registry: CollectorRegistry) -> Histogram:
    """That of one stage, which searches need not look up."""
    return _families(registry)[0].labels(stage)


def tell_stages(timings_s: Mapping[str, float], registry: CollectorRegistry = REGISTRY) -> None:
    """A search has ended, well or not, whose stages took so long."""
    for stage, took_s in timings_s.items():
        _stage(stage, registry).observe(took_s)


def tell_left_out(stage: str, registry: CollectorRegistry = REGISTRY) -> None:
    """An answer goes without a stage, or without one for some collection."""
    _families(registry)[1].labels(stage).inc()


@cache
def cache_families(registry: CollectorRegistry) -> tuple[Counter, Gauge]:
    """What the result cache did, and what it holds."""
    return (
        Counter(
            "ragweave_result_cache",
            "Searches by what the cache did: answered from the process, shared (Redis), in flight; miss, refreshed, "
            "bypassed; and answers evicted.",
            ["event"],
            registry=registry,
        ),
        Gauge("ragweave_result_cache_bytes", "Size of the answers in this process.", registry=registry),
    )


@cache
def store_families(registry: CollectorRegistry) -> tuple[Histogram, Counter]:
    """What is asked of the vector store; operations are those of its port."""
    return (
        Histogram(
            "ragweave_vector_store_seconds",
            "Time an operation took, failed ones included.",
            ["operation"],
            buckets=BUCKETS_S,
            registry=registry,
        ),
        Counter("ragweave_vector_store_failures", "Operations that failed.", ["operation"], registry=registry),
    )


@cache
def _build_families(registry: CollectorRegistry) -> tuple[Histogram, Counter]:
    return (
        Histogram(
            "ragweave_index_build_seconds",
            "Time the build of an index's graph took.",
            buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1200, 3600),
            registry=registry,
        ),
        Counter("ragweave_index_builds", "Builds that were done, or failed.", ["outcome"], registry=registry),
    )


class BuildFigures:
    """Counts the search graphs that the embedded engine builds."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._seconds, ended = _build_families(registry)
        self._done, self._failed = ended.labels("done"), ended.labels("failed")

    @contextmanager
    def build(self) -> Iterator[None]:
        """One build, inside the block; one that is cancelled did not fail."""
        began_s = time.perf_counter()
        try:
            yield
        except Exception:
            self._failed.inc()
            raise
        self._seconds.observe(time.perf_counter() - began_s)
        self._done.inc()
