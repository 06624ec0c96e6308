"""What a worker does for a call that no longer waits: its trace, and what its lines of the log say."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
import structlog
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.jobs.adapters.redis import Redis
from services.jobs.job import JobState
from services.mesh.telemetry import correlated
from services.mesh.traces import belonging_to, traceparent_of
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in
from tests.spans import recorded_call, recording


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    with recording(monkeypatch) as made:
        yield made


async def item_recorded(spans: InMemorySpanExporter) -> None:
    """The job has ended a moment before the work on its last item has: a worker that stops then gives that up."""
    while not any(span.name == "ITEM" for span in spans.get_finished_spans()):
        await asyncio.sleep(0.01)


async def test_an_item_is_linked_to_its_call_and_its_stages_are_its_parts(
    rig: Rig, spans: InMemorySpanExporter
) -> None:
    call = recorded_call()
    with belonging_to(call):
        job_id = await rig.submit(await rig.put(prose(40, "plum")))
    async with rig.working():
        assert (await rig.ended(job_id)).state is JobState.SUCCEEDED
        await item_recorded(spans)
    (item,) = (span for span in spans.get_finished_spans() if span.name == "ITEM")
    assert item.parent is None
    assert [traceparent_of(link.context) for link in item.links] == [call.traceparent]
    told = item.attributes or {}
    assert (told["ragweave.job"], told["ragweave.item"], told["ragweave.tenant"]) == (job_id, 1, "acme")
    assert (told["ragweave.job.type"], told["ragweave.item.change"]) == ("IMPORT", "SUCCEED")
    parts = {span.name for span in spans.get_finished_spans() if span.parent == item.context}
    assert {"read", "extract", "chunk", "embed", "index", "record"} <= parts
    assert not any("plum" in span.to_json() for span in spans.get_finished_spans())


async def test_a_line_of_a_worker_says_what_it_works_on_and_for_which_call(
    rig: Rig, spans: InMemorySpanExporter
) -> None:
    call = recorded_call()
    with structlog.testing.capture_logs(processors=[correlated]) as lines:
        with belonging_to(call):
            job_id = await rig.submit(await rig.put(""))
        async with rig.working():
            assert (await rig.ended(job_id)).state is JobState.FAILED
            await item_recorded(spans)
    (line,) = (line for line in lines if line["event"] == "failed")
    (item,) = (span for span in spans.get_finished_spans() if span.name == "ITEM")
    assert item.context is not None
    assert (line["tenant"], line["job"], line["item"], line["attempt"]) == ("acme", job_id, 1, 1)
    assert (line["request_id"], line["queued_by"]) == (f"{job_id}:1", call.trace_id)
    assert line["trace_id"] == f"{item.context.trace_id:032x}"
    assert (item.attributes or {})["error.type"] == line["reason"]
