"""What models are given to do, as metrics tell it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.embedding.lanes import Lane, Work

_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128)
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class _Families(NamedTuple):
    texts: Histogram
    seconds: Histogram
    tokens: Counter
    waiting: Gauge


@cache
def _families(registry: CollectorRegistry) -> _Families:
    """Made once for a registry, since a name may be taken once. Models are those of the settings, lanes those of us."""
    return _Families(
        Histogram("ragweave_model_batch_texts", "Texts of a batch.", ["model"], buckets=_TEXTS, registry=registry),
        Histogram(
            "ragweave_model_batch_seconds", "Time a batch took.", ["model"], buckets=_BUCKETS_S, registry=registry
        ),
        Counter("ragweave_model_tokens", "Tokens read, without padding.", ["model"], registry=registry),
        Gauge("ragweave_model_queue_texts", "Texts that wait.", ["model", "lane"], registry=registry),
    )


@cache
def _cache_families(registry: CollectorRegistry) -> Counter:
    return Counter(
        "ragweave_embedding_cache",
        "Texts looked up: had near (in this process), far (Redis), or in neither (miss).",
        ["layer"],
        registry=registry,
    )


class ModelFigures:
    """Counts the batches of one model."""

    def __init__(self, model: str, lanes: Sequence[Lane[Any]], registry: CollectorRegistry = REGISTRY) -> None:
        families = _families(registry)
        self._texts, self._seconds = families.texts.labels(model), families.seconds.labels(model)
        self._tokens = families.tokens.labels(model)
        for lane in lanes:
            families.waiting.labels(model, lane.kind).set_function(lane.__len__)

    @contextmanager
    def batch(self, works: Sequence[Work[Any]]) -> Iterator[None]:
        """One batch, run inside the block; one that fails took its time, but read nothing."""
        self._texts.observe(len(works))
        began_s = time.perf_counter()
        try:
            yield
            self._tokens.inc(sum(len(work.tokens.ids) for work in works))
        finally:
            self._seconds.observe(time.perf_counter() - began_s)


class CacheFigures:
    """Counts where embeddings were had from."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        looked_up = _cache_families(registry)
        self._layers = [looked_up.labels(layer) for layer in ("near", "far", "miss")]

    def looked_up(self, near: int, far: int, missed: int) -> None:
        for counter, count in zip(self._layers, (near, far, missed), strict=True):
            if count:
                counter.inc(count)
