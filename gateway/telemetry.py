"""Logs and metrics of the gateway, in the form the services have theirs."""

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    start_http_server,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
# Seconds; what is served here lies in memory.
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


@contextmanager
def exposing_metrics(host: str, port: int) -> Iterator[None]:
    """Serves Prometheus metrics inside the block; port 0 serves none. Raises OSError for a taken port."""
    if not port:
        yield
        return
    disable_created_metrics()  # type: ignore[no-untyped-call]  # as services.mesh.telemetry has it
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Observed:
    """An application whose calls are logged, counted and timed, one line each, and answered with their request id.

    Args:
        paths: What is served, which calls are told apart by in the metrics; all others are one.
        quiet: Paths asked for all the time by who looks whether this process is well; neither logged nor counted.
    """

    def __init__(
        self,
        app: ASGIApp,
        paths: frozenset[str],
        quiet: frozenset[str],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._app, self._paths, self._quiet = app, paths, quiet
        self._log = structlog.get_logger("gateway.calls")
        self._ended = Counter(
            "ragweave_http_requests", "Requests ended, by path and status.", ["path", "status"], registry=registry
        )
        self._seconds = Histogram(
            "ragweave_http_seconds", "Time requests took.", ["path"], buckets=_BUCKETS, registry=registry
        )
        self._in_flight = Gauge("ragweave_http_in_flight", "Requests running now.", registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._quiet:
            return await self._app(scope, receive, send)
        headers = dict(scope["headers"])
        sent_id = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = sent_id if _VALID_ID.fullmatch(sent_id) else secrets.token_hex(16)
        trace = _TRACE.fullmatch(headers.get(b"traceparent", b"").decode("latin-1"))
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        started = time.perf_counter()
        self._in_flight.inc()
        try:
            await self._app(scope, receive, answer)
        except Exception:
            self._log.exception("unexpected", request_id=request_id, path=scope["path"])
            raise
        finally:
            took_s = time.perf_counter() - started
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._in_flight.dec()
            self._seconds.labels(path).observe(took_s)
            self._ended.labels(path, str(status)).inc()
            self._log.info(
                "call",
                request_id=request_id,
                trace_id=trace and trace[1],
                method=f"{scope['method']} {scope['path'][:256]}",
                code=status,
                duration_ms=round(took_s * 1e3, 3),
            )
