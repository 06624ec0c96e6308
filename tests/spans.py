"""Spans as tests look at them: of this process, and of every process that sends them to a collector in memory."""

import base64
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as pb_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.mesh import traces
from services.mesh.traces import Trace

ROOT = Path(__file__).resolve().parents[1]
PATIENCE_S = 60.0


@contextmanager
def recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """The spans of servers and workers that are made inside the block, in this process."""
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with monkeypatch.context() as patched:
        patched.setattr(trace, "get_tracer_provider", lambda: provider)
        yield spans


def new_traceparent(number: int) -> str:
    """The header of a caller whose trace is recorded, and is told from others by its number."""
    return f"00-{number:032x}-{number:016x}-01"


def recorded_call(number: int = 1) -> Trace:
    """A call whose parts are recorded, inside `recording`."""
    makes, parent = traces.tracer(), traces.context_of(new_traceparent(number))
    assert makes is not None and parent is not None
    span = makes.start_span("call", trace.set_span_in_context(trace.NonRecordingSpan(parent)))
    return Trace(f"r-{number}", traces.traceparent_of(span.get_span_context()), tracer=makes, span=span)


@dataclass(frozen=True)
class Told:
    """A span as a collector gets it; ids in hex."""

    service: str
    name: str
    trace_id: str
    id: str
    parent: str
    kind: str
    attributes: Mapping[str, Any]
    links: Sequence[tuple[str, str]]
    begun_s: float
    ended_s: float
    failed: bool


@dataclass
class Collector:
    """Takes traces as an OTLP collector does, and keeps them.

    Attributes:
        raw: Every message, as it came: for looking for what must not be in any.
    """

    spans: list[Told] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def take(self, message: bytes) -> None:
        self.raw.append(message)
        for resource in pb.ExportTraceServiceRequest.FromString(message).resource_spans:
            service = _values(resource.resource.attributes)["service.name"]
            for scope in resource.scope_spans:
                self.spans += [_told(service, span) for span in scope.spans]

    def of_trace(self, trace_id: str) -> list[Told]:
        """In the order they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: span.begun_s)

    def until(self, found: Callable[[list[Told]], bool]) -> list[Told]:
        """All spans, once they are as expected: processes send theirs now and then."""
        until = time.monotonic() + PATIENCE_S
        while not found(self.spans):
            assert time.monotonic() < until, [(span.service, span.name) for span in self.spans]
            time.sleep(0.05)
        return self.spans


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """A collector, and the endpoint it is told at.

    Its server is a process of its own: gRPC's blocking server and grpc.aio in one process have crashed it.
    """
    collector = Collector()
    command = [sys.executable, "-m", "tests.spans"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        taking = threading.Thread(target=_take, args=(server.stdout, collector))
        taking.start()
        try:
            yield collector, f"http://127.0.0.1:{port}"
        finally:
            server.kill()
            taking.join()


def _take(lines: IO[str], collector: Collector) -> None:
    for line in lines:
        if line.endswith("\n"):  # or it was killed in the middle of it
            collector.take(base64.b64decode(line))


class _Servicer(pb_grpc.TraceServiceServicer):
    """Writes every message to stdout, a line each, before it is acknowledged."""

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> pb.ExportTraceServiceResponse:
        print(base64.b64encode(request.SerializeToString()).decode(), flush=True)
        return pb.ExportTraceServiceResponse()


def main() -> None:
    """Serves until killed; the port is the first line on stdout."""
    server = grpc.server(ThreadPoolExecutor(1), options=[("grpc.so_reuseport", 0)])
    pb_grpc.add_TraceServiceServicer_to_server(_Servicer(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def without_parent(spans: Sequence[Told], *, known: Sequence[str] = ()) -> list[Told]:
    """Those that name a parent which is neither among them nor known."""
    ids = {"", *known, *(span.id for span in spans)}
    return [span for span in spans if span.parent not in ids]


def hops(spans: Sequence[Told], last: Told) -> list[str]:
    """The services a span was reached by, from the first on; each once in a row."""
    by_id = {span.id: span for span in spans}
    path: list[str] = []
    at: Told | None = last
    while at is not None:
        if not path or path[0] != at.service:
            path.insert(0, at.service)
        at = by_id.get(at.parent)
    return path


def _told(service: str, span: trace_pb2.Span) -> Told:
    return Told(
        service,
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        _values(span.attributes),
        [(link.trace_id.hex(), link.span_id.hex()) for link in span.links],
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
    )


def _values(attributes: Any) -> dict[str, Any]:
    found = {}
    for each in attributes:
        kind = each.value.WhichOneof("value")
        found[each.key] = getattr(each.value, kind) if kind else None
    return found


if __name__ == "__main__":
    main()
