"""Spans of calls from service to service: who is whose parent, what they tell, and that recording changes nothing."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from services.mesh.calls import current_call
from services.mesh.errors import DependencyUnavailable
from tests.mesh.harness import World
from tests.mesh.kinds import KINDS, Kind, responses_of
from tests.mesh.relaying import relaying
from tests.spans import new_traceparent, recording

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
CALLER = new_traceparent(7)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    with recording(monkeypatch) as made:
        yield made


async def finished(spans: InMemorySpanExporter, count: int) -> list[ReadableSpan]:
    """So many spans, once they have ended, in the order they began."""
    async with asyncio.timeout(30):
        while len(spans.get_finished_spans()) < count:
            await asyncio.sleep(0.01)
    return sorted(spans.get_finished_spans(), key=lambda span: span.start_time or 0)


def parent(span: ReadableSpan) -> str:
    return f"{span.parent.span_id:016x}" if span.parent else ""


@each_kind
async def test_a_call_between_services_is_a_span_between_those_of_the_two(
    world: World, kind: Kind, spans: InMemorySpanExporter
) -> None:
    async with relaying(world, kind) as relay:
        await responses_of(relay.start(kind, metadata=(("traceparent", CALLER),)))
        ended = await finished(spans, 1 + 2 * relay.first.calls)
    (first,) = (span for span in ended if parent(span) == CALLER.split("-")[2])
    sent = {f"{span.context.span_id:016x}": span for span in ended if span.kind is SpanKind.CLIENT}
    second = [span for span in ended if span.kind is SpanKind.SERVER and span is not first]
    assert {span.name for span in ended} == {kind.path[1:]}
    assert {f"{span.context.trace_id:032x}" for span in ended} == {CALLER.split("-")[1]}
    assert {parent(span) for span in sent.values()} == {f"{first.context.span_id:016x}"}
    assert sorted(map(parent, second)) == sorted(sent)
    assert {(span.attributes or {})["rpc.response.status_code"] for span in ended} == {"OK"}


@each_kind
async def test_a_trace_that_its_caller_does_not_record_is_only_passed_on(
    world: World, kind: Kind, spans: InMemorySpanExporter
) -> None:
    seen = []
    unrecorded = CALLER[:-2] + "00"
    async with relaying(world, kind) as relay:

        async def noting() -> None:
            call = current_call()
            assert call is not None
            seen.append((call.metadata["traceparent"], call.metadata["tracestate"]))

        relay.second.script = noting
        await responses_of(relay.start(kind, metadata=(("traceparent", unrecorded), ("tracestate", "a=1,b=2"))))
    assert seen[0] == (unrecorded, "a=1,b=2")
    assert spans.get_finished_spans() == ()


@each_kind
async def test_a_cancelled_caller_cancels_the_callee_two_hops_away_while_it_is_recorded(
    world: World, kind: Kind, spans: InMemorySpanExporter
) -> None:
    async with relaying(world, kind) as relay:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def waiting() -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        relay.second.script = waiting
        call = relay.start(kind, metadata=(("traceparent", CALLER),))
        answer = asyncio.create_task(responses_of(call))
        await entered.wait()
        call.cancel()
        await asyncio.gather(answer, return_exceptions=True)
        await asyncio.wait_for(cancelled.wait(), 10)
        ended = await finished(spans, 3)
    codes = [(span.attributes or {})["rpc.response.status_code"] for span in ended]
    assert codes == ["CANCELLED"] * 3


@each_kind
async def test_a_failed_call_is_told_by_its_code_and_without_its_words(
    world: World, kind: Kind, spans: InMemorySpanExporter
) -> None:
    async with relaying(world, kind) as relay:

        async def failing() -> None:
            raise DependencyUnavailable("the secret store does not answer")

        relay.second.script = failing
        with pytest.raises(grpc.aio.AioRpcError):
            await responses_of(relay.start(kind, metadata=(("traceparent", CALLER),)))
        ended = await finished(spans, 3)
    assert {(span.attributes or {})["error.type"] for span in ended} == {"UNAVAILABLE"}
    assert not any(span.status.is_ok or span.events for span in ended)
    assert "secret" not in "".join(span.to_json() for span in ended)
