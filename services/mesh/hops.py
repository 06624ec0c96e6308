"""Counts and times each call that this process makes of another service."""

import asyncio
import time
from functools import cache
from types import TracebackType

import grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from services.mesh.interceptors.metrics import BUCKETS_S


@cache
def _families(registry: CollectorRegistry) -> tuple[Counter, Histogram, Gauge]:
    """Rate and errors, duration, and load of all methods called; made once for a registry."""
    return (
        Counter(
            "ragweave_hop", "Calls made of other services, by method and code.", ["method", "code"], registry=registry
        ),
        Histogram("ragweave_hop_seconds", "Time they took.", ["method"], buckets=BUCKETS_S, registry=registry),
        Gauge("ragweave_hop_in_flight", "Calls under way now.", ["method"], registry=registry),
    )


@cache
def _of(method: str, registry: CollectorRegistry) -> tuple[Histogram, Gauge]:
    """Those of one method, which its calls need not look up."""
    _, seconds, in_flight = _families(registry)
    return seconds.labels(method), in_flight.labels(method)


@cache
def _ended(method: str, code: str, registry: CollectorRegistry) -> Counter:
    return _families(registry)[0].labels(method, code)


class Hop:
    """One outgoing call: entered when it is sent, left with its outcome.

    The method is one of the contract's, which our own code names: as many as the contract has.
    """

    __slots__ = ("_method", "_registry", "_started")

    def __init__(self, method: str, registry: CollectorRegistry = REGISTRY) -> None:
        self._method = method
        self._registry = registry
        self._started = 0.0

    def __enter__(self) -> None:
        _of(self._method, self._registry)[1].inc()
        self._started = time.perf_counter()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        seconds, in_flight = _of(self._method, self._registry)
        in_flight.dec()
        seconds.observe(time.perf_counter() - self._started)
        _ended(self._method, _code(error), self._registry).inc()


def _code(error: BaseException | None) -> str:
    """The gRPC code of an outcome; a stream that its reader leaves early is cancelled."""
    if error is None:
        return "OK"
    if isinstance(error, grpc.aio.AioRpcError):
        return str(error.code().name)
    return "CANCELLED" if isinstance(error, (asyncio.CancelledError, GeneratorExit)) else "UNKNOWN"
