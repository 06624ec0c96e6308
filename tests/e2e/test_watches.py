"""Streams cut twenty times, over gRPC and REST: what comes is what is kept, each once and in order."""

import json
import random
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from google.protobuf import json_format

from ragweave.v1 import event_service_pb2, job_service_pb2
from tests.e2e.stack import PREFIX, Mesh

CUTS = 20
TENANT = "watches"
DOCUMENTS = 60

# Messages after a sequence, as long as they are asked for.
Ask = Callable[[int], Iterator[Any]]


def over_rest(mesh: Mesh, path: str, accept: str, kind: type[Any]) -> Ask:
    trusted = ssl.create_default_context(cafile=mesh.layout.edge_authority) if mesh.layout.https else True
    headers = {"accept": accept, "authorization": f"Bearer {mesh.token(tenant=TENANT)}"}

    def ask(after: int) -> Iterator[Any]:
        url = f"{mesh.layout.url}{PREFIX}{path}?{urlencode({'afterSequence': after})}"
        with httpx.stream("GET", url, headers=headers, verify=trusted, timeout=60) as response:
            assert response.status_code == 200
            assert response.headers["content-type"] == accept
            for line in response.iter_lines():
                if line:
                    yield json_format.ParseDict(json.loads(line.removeprefix("data: ")), kind())

    return ask


def over_grpc(mesh: Mesh, service: str, method: str, request: Callable[[int], Any]) -> Ask:
    def ask(after: int) -> Iterator[Any]:
        with mesh.client(tenant=TENANT) as client:
            yield from getattr(getattr(client, service), method)(request(after))

    return ask


def last_of_job(message: Any) -> bool:
    return bool(message.HasField("final_status"))


def last_event(message: Any) -> bool:
    return message.event.topic == "ingestion.completed"


def gathered(ask: Ask, last: Callable[[Any], bool], cuts: int = 0, seed: str = "") -> list[Any]:
    """What comes up to the last message, the connection cut so many times on the way."""
    draw, seen = random.Random(seed), []
    while True:
        left = draw.randint(1, 2) if cuts > 0 else -1
        with closing(ask(seen[-1].sequence if seen else 0)) as messages:
            for message in messages:
                seen.append(message)
                if last(message):
                    assert cuts == 0, "over before it was cut often enough"
                    return seen
                left -= 1
                if left == 0:
                    cuts -= 1
                    break
            else:
                raise AssertionError("the stream ended without saying so")


def test_streams_cut_twenty_times_are_what_is_kept(mesh: Mesh) -> None:
    with mesh.client(tenant=TENANT) as client:
        client.create_collection("cut")
        job = client.import_texts("cut", [{"document_id": f"d{at}", "text": f"{at}."} for at in range(DOCUMENTS)]).name
    ways = {
        f"{accept} of {kind.__name__}": (over_rest(mesh, path, accept, kind), last)
        for accept in ("application/x-ndjson", "text/event-stream")
        for path, kind, last in (
            (f"/{job}:watch", job_service_pb2.WatchJobResponse, last_of_job),
            ("/events:watch", event_service_pb2.WatchEventsResponse, last_event),
        )
    }
    of_job = over_grpc(
        mesh, "jobs", "WatchJob", lambda after: job_service_pb2.WatchJobRequest(name=job, after_sequence=after)
    )
    of_events = over_grpc(
        mesh, "events", "WatchEvents", lambda after: event_service_pb2.WatchEventsRequest(after_sequence=after)
    )
    ways |= {"gRPC of WatchJobResponse": (of_job, last_of_job), "gRPC of WatchEventsResponse": (of_events, last_event)}
    with ThreadPoolExecutor(len(ways)) as threads:
        cut = {name: threads.submit(gathered, *way, CUTS, name) for name, way in ways.items()}
        seen = {name: each.result() for name, each in cut.items()}
    *whole_job, final = gathered(of_job, last_of_job)
    whole_events = gathered(of_events, last_event)
    assert final.final_status.code == 0
    assert [each.sequence for each in whole_job] == list(range(1, len(whole_job) + 1))
    assert [each.sequence for each in whole_events] == list(range(1, len(whole_events) + 1))
    assert [each.event.topic for each in whole_events].count("document.indexed") == DOCUMENTS
    for name, messages in seen.items():
        assert messages == ([*whole_job, final] if "Job" in name else whole_events), name
    with pytest.raises(StopIteration), mesh.client(tenant=TENANT) as client:
        watching = client.watch(job, whole_job[-1].sequence)
        assert next(watching).final_status.code == 0
        next(watching)
