"""Logs, traces and metrics of a process, set up once when it starts."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from prometheus_client import disable_created_metrics, start_http_server

from ragweave.json_logs import write_json_logs
from services.mesh import traces
from services.mesh.calls import current_call
from services.mesh.settings import MeshSettings

# Retries included: a collector that is gone holds a stopping process no longer.
_EXPORT_TIMEOUT_S = 3
# So soon after it a call can be looked at, by all its hops.
_EXPORT_EVERY_MS = 1000


def configure_logs(service: str, level: str, levels: Mapping[str, int]) -> None:
    """One JSON object a line on stderr, with the call or the piece of work it was written in."""
    write_json_logs(service, level, levels, adding=[correlated])


def correlated(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.ProcessorReturnValue:
    """Adds to a line what it was written in: the call or the piece of work, and whose it is."""
    belonging = traces.current()
    if belonging is None:
        return event
    known: dict[str, object] = {"request_id": belonging.request_id, "trace_id": belonging.trace_id, **belonging.about}
    call = current_call()
    if call is not None:
        known["method"] = call.method.path
        if call.caller is not None:
            known["tenant"] = call.caller.tenant
    for name, value in known.items():
        event.setdefault(name, value)
    return event


class _AsAsked(Sampler):
    """Records what a recorded call had queued, though it is a trace of its own; the rest as another sampler has it."""

    def __init__(self, other: Sampler) -> None:
        self._other = other

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if any(link.context.trace_flags.sampled for link in links or ()):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes)
        return self._other.should_sample(parent_context, trace_id, name, kind, attributes, links)

    def get_description(self) -> str:
        return f"AsAsked({self._other.get_description()})"


def sampler(ratio: float) -> Sampler:
    """Records what a recorded trace leads to, and that share of new ones."""
    return _AsAsked(ParentBased(TraceIdRatioBased(ratio)))


@asynccontextmanager
async def exporting_traces(service: str, settings: MeshSettings) -> AsyncIterator[None]:
    """Sends spans to the OTLP endpoint, where one is set. Enter it after child processes are started."""
    if not settings.otlp_endpoint:
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"ragweave-{service}"}),
        sampler=sampler(settings.trace_sample_ratio),
    )
    insecure = not settings.otlp_endpoint.startswith("https://")
    provider.add_span_processor(
        BatchSpanProcessor(
            OTLPSpanExporter(endpoint=settings.otlp_endpoint, insecure=insecure, timeout=_EXPORT_TIMEOUT_S),
            schedule_delay_millis=_EXPORT_EVERY_MS,
        )
    )
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        await asyncio.to_thread(provider.shutdown)


@contextmanager
def exposing_metrics(host: str, port: int) -> Iterator[None]:
    """Serves Prometheus metrics inside the block; port 0 serves none. Raises OSError for a taken port."""
    if not port:
        yield
        return
    # Else a series goes beside each counter and histogram, of when it was made: nobody asks for these.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
