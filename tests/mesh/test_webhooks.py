"""An import and who is told of it: the service, its worker and a receiver that does as docs/webhooks.md says."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ragweave.v1 import webhook_service_pb2 as pb
from ragweave.v1.webhook_pb2 import Webhook, WebhookDelivery
from ragweave.v1.webhook_service_pb2_grpc import WebhookServiceStub
from tests.jobs_store import Store, store_in
from tests.mesh.test_jobs_service import inline, jobs_service
from tests.web_site import LOCAL, Site, answer, site

DOCS = Path(__file__).resolve().parents[2] / "docs" / "webhooks.md"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


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
    server: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
            job = await jobs.submit(inline=inline(("a", "one two"), ("b", "three"), ("c", " ")))
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


async def deliveries(hooks: Any, jobs: Any) -> list[WebhookDelivery]:
    """Those of a webhook, the last of which tells that everything has ended; none before."""
    request = pb.ListDeliveriesRequest(parent="webhooks/w", page_size=100)
    found = list((await hooks.ListDeliveries(request, metadata=jobs.as_())).deliveries)
    ended = [each for each in found if each.topic == "ingestion.completed"]
    return found if len(ended) == 2 else [WebhookDelivery()]
