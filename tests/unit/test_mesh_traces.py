"""Traces of what is done for a call, after it, and for several at a time; and what lines of the log say of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.mesh import traces
from services.mesh.telemetry import correlated, sampler
from services.mesh.traces import Trace, belonging_to
from tests.spans import new_traceparent, recorded_call, recording

CALLER = new_traceparent(7)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    with recording(monkeypatch) as made:
        yield made


def context(span: ReadableSpan) -> str:
    assert span.context is not None
    return traces.traceparent_of(span.context)


@pytest.mark.parametrize(
    "header",
    [None, b"x", "", "00-" + "0" * 32 + "-" + "1" * 16 + "-01", CALLER + "-x", CALLER.upper().replace("0", "F")],
)
def test_what_is_no_traceparent_leads_nowhere(header: object) -> None:
    assert traces.context_of(header) is None


def test_a_traceparent_is_read_and_written_the_same() -> None:
    read = traces.context_of(CALLER)
    assert read is not None
    assert traces.traceparent_of(read) == CALLER


def test_a_part_of_what_is_not_recorded_is_nothing(spans: InMemorySpanExporter) -> None:
    assert not traces.part("search").recorded
    with belonging_to(Trace("r", traces.new_traceparent())):
        with traces.part("search") as part:
            part.note("a", 1)
        traces.note(lambda: pytest.fail("asked for attributes nobody reads"))
        assert traces.origin() is None
    assert not traces.shared_part("batch", []).recorded
    assert spans.get_finished_spans() == ()


def test_a_part_that_fails_is_told_by_its_kind_of_error_alone(spans: InMemorySpanExporter) -> None:
    with belonging_to(recorded_call(1)), pytest.raises(ValueError), traces.part("search"):
        raise ValueError("words of a document")
    (span,) = spans.get_finished_spans()
    assert span.attributes == {"error.type": "ValueError"}
    assert "words of" not in span.to_json()


def test_work_that_a_call_had_queued_is_a_trace_of_its_own_linked_to_it(spans: InMemorySpanExporter) -> None:
    with traces.begun("ITEM", CALLER, request_id="job:1", about={"job": "j"}):
        here = traces.current()
        assert here is not None and here.request_id == "job:1"
        with traces.part("read"):
            pass
    part, work = spans.get_finished_spans()
    assert work.parent is None
    assert [traces.traceparent_of(link.context) for link in work.links] == [CALLER]
    assert context(work) != CALLER
    assert part.parent == work.context


def test_work_that_an_unrecorded_call_had_queued_is_not_recorded(spans: InMemorySpanExporter) -> None:
    with traces.begun("ITEM", CALLER[:-2] + "00", request_id="job:1", about={}):
        here = traces.current()
        assert here is not None and here.traceparent.endswith("-00")
        assert here.about == {"queued_by": CALLER.split("-")[1]}
    assert spans.get_finished_spans() == ()


def test_work_that_no_call_had_queued_is_a_new_trace(spans: InMemorySpanExporter) -> None:
    with traces.begun("ITEM", "", request_id="job:1", about={"job": "j"}):
        traces.failed("INDEX_FAILED")
    (span,) = spans.get_finished_spans()
    assert (span.parent, list(span.links)) == (None, [])
    assert span.attributes == {"ragweave.job": "j", "error.type": "INDEX_FAILED"}
    assert not span.status.is_ok


@pytest.mark.parametrize(("flag", "recorded"), [("01", True), ("00", False)])
def test_the_share_recorded_is_of_new_traces_and_not_of_what_they_lead_to(
    monkeypatch: pytest.MonkeyPatch, flag: str, recorded: bool
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler(0.0))
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    asked = CALLER[:-2] + flag
    with traces.begun("ITEM", asked, request_id="job:1", about={}), traces.part("read"):
        pass
    assert len(spans.get_finished_spans()) == (2 if recorded else 0)


def test_work_for_one_caller_is_a_part_of_what_it_does(spans: InMemorySpanExporter) -> None:
    with belonging_to(recorded_call(1)):
        asked = traces.origin()
    assert asked is not None
    traces.shared_part("batch", [asked, asked]).end()
    (span,) = spans.get_finished_spans()
    assert span.parent == asked.span
    assert [link.context for link in span.links] == [asked.span]


def test_work_for_several_callers_is_a_trace_of_its_own_linked_to_each(spans: InMemorySpanExporter) -> None:
    asked = []
    for number in (1, 2):
        with belonging_to(recorded_call(number)):
            asked.append(traces.origin())
    origins = [each for each in asked if each is not None]
    traces.shared_part("batch", origins).end()
    (span,) = spans.get_finished_spans()
    assert span.parent is None
    assert [link.context for link in span.links] == [each.span for each in origins]


def test_a_line_says_what_it_was_written_in_unless_it_says_otherwise() -> None:
    lines: list[Any] = []
    with belonging_to(Trace("r-1", CALLER, about={"job": "j", "tenant": "acme"})):
        lines.append(correlated(None, "info", {"event": "a", "tenant": "b"}))
    lines.append(correlated(None, "info", {"event": "by itself"}))
    known = {"request_id": "r-1", "trace_id": CALLER.split("-")[1], "job": "j"}
    assert lines == [{"event": "a", "tenant": "b", **known}, {"event": "by itself"}]
