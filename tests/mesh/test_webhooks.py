"""An import and who is told of it: the service, its worker and a receiver that does as docs/webhooks.md says."""

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ragweave.v1 import webhook_service_pb2 as pb
from ragweave.v1.webhook_pb2 import Webhook, WebhookDelivery
from ragweave.v1.webhook_service_pb2_grpc import WebhookServiceStub
from services.mesh.traces import traceparent_of
from tests.jobs_store import Store, store_in
from tests.mesh.test_jobs_service import inline, jobs_service
from tests.spans import new_traceparent, recording
from tests.web_site import LOCAL, Site, answer, site

DOCS = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    with recording(monkeypatch) as made:
        yield made


def documented() -> dict[str, Any]:
    """What the page's example of a receiver defines."""
    [example] = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    defined: dict[str, Any] = {}
    exec(example, defined)
    return defined


def received(there: Site) -> list[tuple[bytes, dict[str, str]]]:
    """Bodies and headers of what came, in order."""
    heads = [dict(line.split(": ", 1) for line in each.splitlines()[1:] if line) for each in there.asked]
    return list(zip(there.bodies, heads, strict=True))


async def test_a_receiver_is_told_of_an_import_in_order_and_can_verify_it(
    server: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spans: InMemorySpanExporter,
) -> None:
    async with site({"/hook": answer(b"", "204 No Content")}) as there:
        for name, value in (("ALLOW", LOCAL), ("HTTP", LOCAL), ("PORTS", str(there.port))):
            monkeypatch.setenv(f"RAGWEAVE_JOBS_WEBHOOKS_{name}", value)
        async with jobs_service(server, tmp_path) as jobs, jobs.world.channel(jobs.port) as channel:
            hooks = WebhookServiceStub(channel)
            uri = f"http://{LOCAL}:{there.port}/hook"
            await jobs.submit(inline=inline(("before", "one")))
            made: Webhook = await hooks.CreateWebhook(
                pb.CreateWebhookRequest(webhook_id="w", webhook={"uri": uri}), metadata=jobs.as_()
            )
            tested = await hooks.TestWebhook(pb.TestWebhookRequest(name=made.name), metadata=jobs.as_())
            assert (tested.state, tested.last_status) == (WebhookDelivery.DELIVERED, 204)
            documents = inline(("a", "one two"), ("b", "three"), ("c", " "))
            job = await jobs.submit(inline=documents, traceparent=new_traceparent(7))
            async with jobs.working():
                await jobs.ended(job.name)
                while not all(each.state == WebhookDelivery.DELIVERED for each in await deliveries(hooks, jobs)):
                    await asyncio.sleep(0.02)
            delivered = await deliveries(hooks, jobs)
    verify = documented()
    assert all(verify["receive"](made.secret, body, headers) == 204 for body, headers in received(there))
    body, headers = received(there)[-1]
    assert verify["receive"](made.secret, body + b" ", headers) == 401
    assert len(verify["SEEN"]) == len(there.asked) == len(delivered) + 1
    assert "ingestion.completed {'sequence': " in capsys.readouterr().out

    events = [json.loads(body) for body, _ in received(there)][1:]
    of_job = [each for each in events if job.name in json.dumps(each)]
    topics = [each["type"] for each in of_job if each["type"] != "ingestion.progress"]
    assert topics[0] == "ingestion.started"
    assert sorted(topics[1:-1]) == ["document.failed", "document.indexed", "document.indexed"]
    assert topics[-1] == "ingestion.completed"
    sequences = [int(each["data"]["sequence"]) for each in of_job]
    assert sequences == sorted(sequences)
    assert of_job[-1]["data"]["job"]["state"] == "PARTIALLY_SUCCEEDED"
    assert of_job[-1]["data"]["topic"] == "ingestion.completed"
    assert of_job[-1]["timestamp"] == of_job[-1]["data"]["eventTime"]
    assert [headers["webhook-id"] for _, headers in received(there)][1:] == [each["data"]["uid"] for each in events]
    check_traces(received(there)[1:], spans.get_finished_spans(), job.name)


def check_traces(
    requests: Sequence[tuple[bytes, dict[str, str]]], spans: Sequence[ReadableSpan], job_name: str
) -> None:
    """Each delivery is a trace of its own, which its receiver is given; those of the job link to who asked for it."""
    posts = {traceparent_of(span.context): span for span in spans if span.name == "POST" and span.context}
    deliveries = {span.context.span_id: span for span in spans if span.name == "DELIVERY" and span.context}
    linked = set()
    for body, headers in requests:
        post = posts[headers["traceparent"]]
        assert post.parent is not None
        delivery = deliveries[post.parent.span_id]
        assert delivery.parent is None
        assert (post.attributes or {})["http.response.status_code"] == 204
        told = delivery.attributes or {}
        assert (told["ragweave.webhook"], told["ragweave.delivery"], told["ragweave.attempt"]) == (
            "w",
            int(json.loads(body)["data"]["sequence"]),
            1,
        )
        if job_name in body.decode():
            (link,) = delivery.links
            linked.add(traceparent_of(link.context))
    (asked,) = linked
    imports = [span for span in spans if span.context and traceparent_of(span.context) == asked]
    assert [span.name for span in imports] == ["ragweave.v1.JobService/ImportDocuments"]
    assert asked.split("-")[1] == new_traceparent(7).split("-")[1]


async def deliveries(hooks: Any, jobs: Any) -> list[WebhookDelivery]:
    """Those of a webhook, the last of which tells that everything has ended; none before."""
    request = pb.ListDeliveriesRequest(parent="webhooks/w", page_size=100)
    found = list((await hooks.ListDeliveries(request, metadata=jobs.as_())).deliveries)
    ended = [each for each in found if each.topic == "ingestion.completed"]
    return found if len(ended) == 2 else [WebhookDelivery()]
