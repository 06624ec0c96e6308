"""The trace that what is being done belongs to, and the spans of its parts where that trace is recorded.

Whether anything is recorded is settled once, where a call or a piece of work begins; below, an unrecorded part costs
one look at a context variable. Spans say what was asked of whom and how it ended, by OpenTelemetry's conventions; never
a text, a query or a token.
"""

import asyncio
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self, TypeAlias

import grpc
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags, Tracer
from opentelemetry.trace import Status as SpanStatus
from opentelemetry.trace import StatusCode as SpanStatusCode

Attributes: TypeAlias = Mapping[str, str | int | float | bool | Sequence[str]]

# version, trace id, parent id, flags (https://www.w3.org/TR/trace-context/#traceparent-header)
_TRACEPARENT: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class Trace:
    """What a call or a piece of work belongs to: logs name it, outgoing calls carry it on.

    Attributes:
        request_id: Of the call; of a worker, what stands for one.
        traceparent: W3C header of whoever calls others in its name.
        tracestate: W3C header that goes with it, as it came; "" where none did.
        about: What else each line of the log says, such as the job.
        tracer: Makes the spans of its parts.
        span: Their parent; None where the trace is not recorded.
    """

    request_id: str
    traceparent: str
    tracestate: str = ""
    about: Mapping[str, str | int] = field(default_factory=dict)
    tracer: Tracer | None = None
    span: Span | None = None

    @property
    def trace_id(self) -> str:
        """32 hex digits."""
        return self.traceparent[3:35]


_current: ContextVar[Trace | None] = ContextVar("trace", default=None)


def current() -> Trace | None:
    """The trace of what is being done; None for what a process does by itself."""
    return _current.get()


@contextmanager
def belonging_to(belonging: Trace) -> Iterator[None]:
    """What is done inside the block belongs to that trace; so do the tasks it starts."""
    token = _current.set(belonging)
    try:
        yield
    finally:
        _current.reset(token)


def tracer() -> Tracer | None:
    """What makes spans in this process; None where no exporter is installed."""
    provider = trace.get_tracer_provider()
    return provider.get_tracer("ragweave") if isinstance(provider, TracerProvider) else None


def context_of(traceparent: object) -> SpanContext | None:
    """Where a W3C header points; None where it is not one."""
    if not isinstance(traceparent, str) or (match := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    return SpanContext(int(match[1], 16), int(match[2], 16), True, TraceFlags(int(match[3], 16)))


def traceparent_of(context: SpanContext) -> str:
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def recorded(
    makes: Tracer, span: Span, request_id: str, tracestate: str = "", about: Mapping[str, str | int] | None = None
) -> Trace:
    """What belongs to a span; its parts are recorded where it is itself."""
    own = traceparent_of(span.get_span_context())
    if not span.is_recording():
        return Trace(request_id, own, tracestate, about or {})
    return Trace(request_id, own, tracestate, about or {}, makes, span)


def new_traceparent() -> str:
    """The header of a trace that nobody records, for logs to share."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"


class Part:
    """The span of a part of what is being done. It is nobody's parent in this process, and ends with its block.

    Attributes:
        traceparent: What a call that is the part carries on; "" for the trace's own.
    """

    __slots__ = ("_ended_ns", "_span", "traceparent")

    def __init__(self, span: Span | None) -> None:
        self._span = span
        self.traceparent = traceparent_of(span.get_span_context()) if span else ""

    @property
    def recorded(self) -> bool:
        return self._span is not None

    def note(self, key: str, value: str | float | bool) -> None:
        """Adds an attribute."""
        if self._span is not None:
            self._span.set_attribute(key, value)

    def end(self, failure: str = "", *, at_ns: int | None = None) -> None:
        """Ends it, at `time.time_ns()` unless another moment is given.

        Args:
            failure: What kind of error it ended with; "" where it went well.
        """
        if self._span is None:
            return
        if failure:
            self._span.set_attribute(ERROR_TYPE, failure)
            self._span.set_status(SpanStatus(SpanStatusCode.ERROR))
        self._span.end(at_ns)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._span is not None:
            self.end(failure_of(error) if error is not None else "")


UNRECORDED: Final = Part(None)


def part(name: str, attributes: Attributes | None = None, *, kind: SpanKind = SpanKind.CLIENT) -> Part:
    """A part of what is being done, begun now; unrecorded where the trace is, or where there is none.

    Args:
        name: Of low cardinality: no ids, no texts.
    """
    here = _current.get()
    if here is None or here.span is None or here.tracer is None:
        return UNRECORDED
    parent = trace.set_span_in_context(here.span)
    return Part(here.tracer.start_span(name, parent, kind, attributes, record_exception=False))


def headers(part: Part) -> dict[str, str]:
    """What carries the trace on to whoever is asked as that part; nothing where there is none."""
    here = _current.get()
    if here is None:
        return {}
    found = {"traceparent": part.traceparent or here.traceparent}
    return {**found, "tracestate": here.tracestate} if here.tracestate else found


def note(attributes: Callable[[], Attributes]) -> None:
    """Adds attributes to the span of the call or the piece of work; they are only asked for where it is recorded."""
    here = _current.get()
    if here is not None and here.span is not None:
        here.span.set_attributes(attributes())


def failed(reason: str) -> None:
    """Says of the call or the piece of work that it has failed, and why, in a word."""
    here = _current.get()
    if here is not None and here.span is not None:
        here.span.set_attribute(ERROR_TYPE, reason)
        here.span.set_status(SpanStatus(SpanStatusCode.ERROR))


@contextmanager
def begun(
    name: str,
    queued_by: str,
    *,
    request_id: str,
    about: Mapping[str, str | int],
) -> Iterator[None]:
    """A piece of work that a call had queued, as a trace of its own: who asked no longer waits.

    It is recorded where the call's was, and links to it; what no call had queued is a new trace like any other.

    Args:
        name: Of low cardinality.
        queued_by: The call's traceparent; "" where that is not known.
        request_id: What stands for one in logs and outgoing calls.
        about: What each line of the log says of it; its span does, too.
    """
    context, makes = context_of(queued_by), tracer()
    if context is not None:
        about = {**about, "queued_by": f"{context.trace_id:032x}"}
    if makes is None or (context is not None and not context.trace_flags.sampled):
        with belonging_to(Trace(request_id, new_traceparent(), about=about)):
            yield
        return
    span = makes.start_span(
        name,
        trace.set_span_in_context(trace.INVALID_SPAN),
        SpanKind.CONSUMER,
        {f"ragweave.{key}": value for key, value in about.items()},
        links=[Link(context)] if context else [],
        record_exception=False,
    )
    with belonging_to(recorded(makes, span, request_id, about=about)), Part(span):
        yield


@dataclass(frozen=True, slots=True)
class Origin:
    """A recorded span that others' work may be done for."""

    tracer: Tracer
    span: SpanContext


def origin() -> Origin | None:
    """What links lead to from work that is done for several callers at a time; None where nothing is recorded."""
    here = _current.get()
    if here is None or here.span is None or here.tracer is None:
        return None
    return Origin(here.tracer, here.span.get_span_context())


def shared_part(name: str, origins: Sequence[Origin], attributes: Attributes | None = None) -> Part:
    """Work done for several callers at a time, linked to each of their spans.

    Done for one caller it is a part of what that one does; for several it is a trace of its own, since a span has but
    one parent.
    """
    spans = list({each.span.span_id: each.span for each in origins}.values())
    if not spans:
        return UNRECORDED
    parent = NonRecordingSpan(spans[0]) if len(spans) == 1 else trace.INVALID_SPAN
    return Part(
        origins[0].tracer.start_span(
            name,
            trace.set_span_in_context(parent),
            SpanKind.INTERNAL,
            attributes,
            links=[Link(each) for each in spans],
            record_exception=False,
        )
    )


def failure_of(error: BaseException) -> str:
    """What kind of error it is, in a word: gRPC's code, or the class; never its text."""
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    return "CANCELLED" if isinstance(error, asyncio.CancelledError | GeneratorExit) else type(error).__name__
