"""Our client follows a job over connections that break, whichever way they do; what a server says ends it."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import ragweave.client
from ragweave import AsyncClient
from ragweave.errors import RagweaveError
from ragweave.v1 import job_service_pb2 as pb
from ragweave.v1 import job_service_pb2_grpc
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
    monkeypatch.setattr(ragweave.client, "_WATCH_PAUSE_S", 0.0)


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
