"""Counts and times each call."""

import time
from functools import cache
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.mesh.calls import Call
from services.mesh.chain import Proceed

# Seconds; dense where a search and its parts lie.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@cache
def _families(registry: CollectorRegistry) -> tuple[Counter, Histogram, Gauge]:
    """Rate and errors, duration, and load of all methods; made once for a registry, since a name may be taken once."""
    return (
        Counter("ragweave_rpc", "Calls ended, by method and code.", ["method", "code"], registry=registry),
        Histogram("ragweave_rpc_seconds", "Time calls took.", ["method"], buckets=BUCKETS_S, registry=registry),
        Gauge("ragweave_rpc_in_flight", "Calls running now.", ["method"], registry=registry),
    )


class Metrics:
    """Rate, errors and duration of each method, and how many of its calls run now."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._ended, self._seconds, self._in_flight = _families(registry)
        # Finding a series by its labels takes a lock and as long as counting does.
        self._of_method = cache(lambda path: (self._in_flight.labels(path), self._seconds.labels(path)))
        self._of_end = cache(self._ended.labels)

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        path = call.method.path
        running, seconds = self._of_method(path)
        running.inc()
        started = time.perf_counter()
        try:
            return await proceed(call, request)
        finally:
            running.dec()
            seconds.observe(time.perf_counter() - started)
            self._of_end(path, call.status.name).inc()
