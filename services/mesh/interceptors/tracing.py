"""Continues the caller's W3C trace."""

import re
import secrets
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from services.mesh.calls import Call
from services.mesh.chain import Proceed

# version, trace id, parent id, flags (https://www.w3.org/TR/trace-context/#traceparent-header)
_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-[0-9a-f]{2}")
_W3C = TraceContextTextMapPropagator()
# Codes that are the server's fault, by OpenTelemetry's conventions for gRPC spans.
_SERVER_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}


class Tracing:
    """Records a server span where a span exporter is installed; passes the trace id on either way."""

    def __init__(self) -> None:
        provider = trace.get_tracer_provider()
        self._tracer = provider.get_tracer("ragweave") if isinstance(provider, TracerProvider) else None

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if self._tracer is None:
            call.trace_id, call.traceparent = _continued(call.metadata.get("traceparent"))
            return await proceed(call, request)
        carrier = {key: value for key, value in call.metadata.items() if isinstance(value, str)}
        with self._tracer.start_as_current_span(
            call.method.path[1:],
            context=_W3C.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={
                "rpc.system": "grpc",
                "rpc.service": call.method.service,
                "rpc.method": call.method.name,
                "ragweave.request_id": call.request_id,
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            call.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
            outgoing: dict[str, str] = {}
            _W3C.inject(outgoing)
            call.traceparent = outgoing.get("traceparent", "")
            try:
                return await proceed(call, request)
            finally:
                span.set_attribute("rpc.grpc.status_code", call.status.value[0])
                if call.status in _SERVER_FAULTS:
                    span.set_status(Status(StatusCode.ERROR, call.status.name))


def _continued(sent: str | bytes | None) -> tuple[str, str]:
    """Trace id and traceparent as sent; without a valid one, those of a new trace nobody records."""
    if isinstance(sent, str) and (match := _TRACEPARENT.fullmatch(sent)):
        return match[1], sent
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-00"
