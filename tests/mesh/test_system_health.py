"""Processes asked how they are: those that serve, that are not ready, that hang and that are gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from ragweave.internal.v1 import process_service_pb2 as pb
from ragweave.internal.v1.process_service_pb2_grpc import (
    ProcessServiceServicer,
    ProcessServiceStub,
    add_ProcessServiceServicer_to_server,
)
from ragweave.v1 import health_pb2
from services.mesh.reports import State
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from services.system.adapters.grpc_processes import GrpcProcesses
from tests.mesh.harness import World, caller_of
from tests.ports import free_port


@asynccontextmanager
async def server(world: World, *, ready: bool = True) -> AsyncIterator[int]:
    """The port of a process of a service that serves nothing but its health."""

    async def store() -> None:
        if not ready:
            raise ConnectionError

    async def cache() -> None:
        raise ConnectionError

    @asynccontextmanager
    async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
        yield Wiring(lambda server: None, checks={"store": store}, uses={"cache": cache})

    async with world.running(wire, world.settings()) as port:
        yield port


class Hanging(ProcessServiceServicer):
    """A process that takes calls and answers so many of them."""

    def __init__(self, answers: int) -> None:
        self._answers = answers

    async def GetProcess(
        self, request: pb.GetProcessRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.Health.Process:
        self._answers -= 1
        if self._answers < 0:
            await asyncio.Event().wait()
        return health_pb2.Health.Process(name="late", state=health_pb2.Health.SERVING)


@asynccontextmanager
async def hanging(*, answers: int = 0) -> AsyncIterator[int]:
    """The port of one."""
    server = grpc.aio.server()
    add_ProcessServiceServicer_to_server(Hanging(answers), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield port
    await server.stop(0)


async def test_each_replica_is_asked_whatever_it_says_of_itself(world: World) -> None:
    async with server(world) as one, server(world, ready=False) as two, hanging() as three:
        target = "ipv4:" + ",".join(world.target(port) for port in (one, two, three, free_port()))
        async with GrpcProcesses(world.mesh, "jobs", target) as processes:
            found = await processes.look()
            again = await processes.look()
    serving, unready = sorted((each for each in found if each.dependencies), key=lambda each: each.state != "DEGRADED")
    assert (serving.state, serving.error) == (State.DEGRADED, "cache: ConnectionError")
    assert (unready.state, unready.error) == (State.DOWN, "store: ConnectionError; cache: ConnectionError")
    assert [(each.name, each.required) for each in unready.dependencies] == [("store", True), ("cache", False)]
    assert serving.response_s is not None and serving.memory_bytes > 2**20
    silent = {each.name: (each.state, each.error) for each in found if not each.dependencies}
    assert silent["jobs-3"] == (State.DOWN, "does not answer within 0.7 s")
    assert silent["jobs-4"] == (State.DOWN, "cannot be reached")
    assert [each.state for each in again] == [each.state for each in found]


async def test_one_late_answer_is_forgiven_two_in_a_row_are_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async with hanging(answers=1) as port, GrpcProcesses(world.mesh, "jobs", world.target(port)) as processes:
        (first,) = await processes.look()
        monkeypatch.setattr("services.system.adapters.grpc_processes._ANSWER_S", 0.05)
        (late,), (later,) = await processes.look(), await processes.look()
    assert [each.state for each in (first, late, later)] == [State.SERVING, State.DEGRADED, State.DOWN]
    assert {each.name for each in (first, late, later)} == {"late"}


async def test_a_process_tells_services_alone_how_it_is(world: World) -> None:
    async with server(world) as port, world.channel(port) as channel:
        for metadata in ((), world.bearer(roles=["admin"]), world.bearer(tenant="operator", roles=["admin"])):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ProcessServiceStub(channel).GetProcess(pb.GetProcessRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        async with world.channel_as(port, caller_of()) as ours:
            assert (await ProcessServiceStub(ours).GetProcess(pb.GetProcessRequest())).name
