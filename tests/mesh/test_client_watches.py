"""Our client follows jobs and events over connections that break, whichever way they do; what a server says ends it."""

import asyncio
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

import grpc
import pytest

import ragweave.watching
from ragweave import AsyncClient, Client
from ragweave.errors import RagweaveError
from ragweave.v1 import event_pb2, event_service_pb2, event_service_pb2_grpc, job_service_pb2_grpc
from ragweave.v1 import job_service_pb2 as pb
from tests.mesh.harness import World


class Breaking(job_service_pb2_grpc.JobServiceServicer):
    """Ends each stream but the last after one event, with a status as the transport makes one up."""

    def __init__(self, code: grpc.StatusCode, breaks: int = 3) -> None:
        self._code = code
        self._breaks = breaks
        self.asked: list[int] = []

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
        self.asked.append(request.after_sequence)
        yield pb.WatchJobResponse(sequence=request.after_sequence + 1)
        if len(self.asked) <= self._breaks:
            context.set_code(self._code)
            context.set_details("Stream removed")
            return
        final = pb.WatchJobResponse(sequence=request.after_sequence + 1)
        final.final_status.SetInParent()
        yield final


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragweave.watching, "PAUSE_S", 0.0)


async def watched(servicer: object) -> list[int]:
    server = grpc.aio.server()
    job_service_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            return [event.sequence async for event in client.watch("jobs/a") if not event.HasField("final_status")]
    finally:
        await server.stop(0)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
async def test_a_watch_goes_on_where_it_was_when_the_connection_breaks(code: grpc.StatusCode) -> None:
    servicer = Breaking(code)
    assert await watched(servicer) == [1, 2, 3, 4]
    assert servicer.asked == [0, 1, 2, 3]


async def test_a_watch_ends_with_what_the_server_says(world: World) -> None:
    class Refusing(job_service_pb2_grpc.JobServiceServicer):
        async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[pb.WatchJobResponse]:
            yield pb.WatchJobResponse(sequence=1)
            raise RuntimeError("a defect")

    async with (
        world.serving(job_service_pb2_grpc.add_JobServiceServicer_to_server, Refusing()) as port,
        AsyncClient(f"127.0.0.1:{port}", token=world.token(roles=["admin"])) as client,
    ):
        with pytest.raises(RagweaveError) as refused:
            [event async for event in client.watch("jobs/a")]
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")


class Interrupted(event_service_pb2_grpc.EventServiceServicer):
    """Sends how far it is, an event, and that it ends early, in a message or without; at last that events are gone."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def WatchEvents(self, request: Any, context: Any) -> AsyncIterator[event_service_pb2.WatchEventsResponse]:
        self.asked.append(request.after_sequence)
        at = max(request.after_sequence, 0) + 1
        yield event_service_pb2.WatchEventsResponse(sequence=at)
        if at > 8:
            yield _final(at, grpc.StatusCode.OUT_OF_RANGE)
            return
        yield event_service_pb2.WatchEventsResponse(sequence=at + 1, event=event_pb2.Event(sequence=at + 1))
        if len(self.asked) % 3 == 1:
            yield _final(at + 1, grpc.StatusCode.UNAVAILABLE)
        elif len(self.asked) % 3 == 2:
            yield _final(at + 1, grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")


def _final(sequence: int, code: grpc.StatusCode) -> event_service_pb2.WatchEventsResponse:
    final = event_service_pb2.WatchEventsResponse(sequence=sequence)
    final.final_status.code = code.value[0]
    final.final_status.message = "why"
    return final


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
async def test_events_go_on_where_they_were_until_the_server_says_that_they_cannot(kind: str) -> None:
    servicer, server = Interrupted(), grpc.aio.server()
    event_service_pb2_grpc.add_EventServiceServicer_to_server(servicer, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    seen: list[int] = []

    def watch() -> None:
        with Client(target) as client:
            assert [each.sequence for each in islice(client.watch_events(), 1)] == [2]
            seen.extend(each.sequence for each in client.watch_events(["document.*"], after_sequence=-1))

    async def watch_async() -> None:
        async with AsyncClient(target) as client:
            async for each in client.watch_events(["document.*"], after_sequence=-1):
                seen.append(each.sequence)

    try:
        with pytest.raises(RagweaveError, match="OUT_OF_RANGE: why"):
            await (asyncio.to_thread(watch) if kind == "blocking" else watch_async())
    finally:
        await server.stop(0)
    assert seen == [2, 4, 6, 8]
    assert servicer.asked[-5:] == [-1, 2, 4, 6, 8]
