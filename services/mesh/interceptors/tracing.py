"""Continues the caller's W3C trace."""

from typing import Any, Final

from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes.rpc_attributes import (
    RPC_METHOD,
    RPC_RESPONSE_STATUS_CODE,
    RPC_SYSTEM_NAME,
)
from opentelemetry.trace import NonRecordingSpan, SpanKind

from services.mesh import traces
from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.status import SERVER_FAULTS
from services.mesh.traces import Part, Trace

# What a W3C tracestate is passed on up to (https://www.w3.org/TR/trace-context/#tracestate-limits).
_LONGEST_STATE: Final = 512


class Tracing:
    """Has all that a call leads to belong to its caller's trace, and records a span of it where that is sampled."""

    def __init__(self) -> None:
        self._tracer = traces.tracer()

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        sent = call.metadata.get("traceparent")
        caller = traces.context_of(sent)
        state = call.metadata.get("tracestate", "") if caller else ""
        state = state if isinstance(state, str) and len(state) <= _LONGEST_STATE else ""
        if self._tracer is None or (caller is not None and not caller.trace_flags.sampled):
            belonging = Trace(call.request_id, str(sent) if caller else traces.new_traceparent(), state)
            call.trace_id = belonging.trace_id
            with traces.belonging_to(belonging):
                return await proceed(call, request)
        span = self._tracer.start_span(
            call.method.path[1:],
            trace.set_span_in_context(NonRecordingSpan(caller or trace.INVALID_SPAN_CONTEXT)),
            SpanKind.SERVER,
            {
                RPC_SYSTEM_NAME: "grpc",
                RPC_METHOD: call.method.path[1:],
                "ragweave.request_id": call.request_id,
            },
            record_exception=False,
        )
        belonging = traces.recorded(self._tracer, span, call.request_id, state)
        call.trace_id = belonging.trace_id
        try:
            with traces.belonging_to(belonging):
                return await proceed(call, request)
        finally:
            code = call.status.name
            span.set_attribute(RPC_RESPONSE_STATUS_CODE, code)
            if call.caller is not None:
                span.set_attribute("ragweave.tenant", call.caller.tenant)
            Part(span).end(code if call.status in SERVER_FAULTS else "")
