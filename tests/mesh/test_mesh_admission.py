"""Load is shed at the door: users' calls alone, at once, with what tells a client that it may come back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from ragweave.v1 import collection_service_pb2 as pb
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Scripted, add_scripted, responses_of

ASKED = pb.GetCollectionRequest(name="collections/a")
PATH = "/ragweave.v1.CollectionService/GetCollection"


class Held(Scripted):
    """Every call waits until it is let go."""

    def __init__(self) -> None:
        super().__init__(self._hold)
        self.begun = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()

    async def _hold(self) -> None:
        self.begun.release()
        await self.let_go.wait()


@asynccontextmanager
async def full(world: World) -> AsyncIterator[tuple[Held, int, CollectionServiceStub]]:
    """A server with room for one call of a class and none in line, and that one runs."""
    servicer = Held()
    async with world.serving(add_scripted, servicer, name="scripted") as port, world.channel(port) as channel:
        stub = CollectionServiceStub(channel)
        running = asyncio.ensure_future(stub.GetCollection(ASKED, metadata=world.bearer(roles=["admin"])))
        await servicer.begun.acquire()
        yield servicer, port, stub
        servicer.let_go.set()
        await running


@pytest.fixture
def narrow(world: World) -> World:
    return World(world.mesh.model_copy(update={"max_running_calls": 1, "max_waiting_calls": 0}), world.user_key)


def shed() -> float:
    return REGISTRY.get_sample_value("ragweave_rpc_shed_total", {"method": PATH, "reason": "queue_full"}) or 0.0


async def test_one_call_too_many_is_refused_at_once_and_says_when_to_come_back(narrow: World) -> None:
    before = shed()
    async with full(narrow) as (servicer, _, stub):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetCollection(ASKED, metadata=narrow.bearer(roles=["admin"]))
        assert servicer.calls == 1
    # Not UNAVAILABLE: the edge and every client would ask again at once.
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(raised.value.trailing_metadata())
    status = Status.FromString(trailers["grpc-status-details-bin"])
    info, retry = details.ErrorInfo(), details.RetryInfo()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(retry)
    assert (info.reason, info.metadata["cause"]) == ("OVERLOADED", "queue_full")
    assert retry.retry_delay.ToMilliseconds() > 0
    assert trailers["retry-after"] == "1"
    assert shed() == before + 1


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ("2000m", False),
        ("3S", False),
        ("3000000u", False),
        ("5S", True),
        ("1M", True),
        ("1H", True),
        ("9000000000n", True),
        ("words", False),
        ("m", False),
        ("", False),
    ],
)
async def test_a_call_that_has_waited_before_it_came_is_known_by_the_time_it_was_given(
    world: World, given: str, refused: bool
) -> None:
    async with full(world) as (servicer, _, stub):
        bearer = (*world.bearer(roles=["admin"]), ("x-ragweave-timeout", given))
        second = asyncio.ensure_future(stub.GetCollection(ASKED, metadata=bearer, timeout=2.0))
        if refused:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await second
            status = Status.FromString(dict(raised.value.trailing_metadata())["grpc-status-details-bin"])
            info = details.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.metadata["cause"] == "stale"
            return
        await servicer.begun.acquire()
        servicer.let_go.set()
        await second


async def test_health_the_services_own_calls_and_other_classes_are_never_shed(narrow: World) -> None:
    async with full(narrow) as (servicer, port, stub):
        async with narrow.channel(port) as channel:
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        async with narrow.channel_as(port, caller_of("ann")) as channel:
            by_service = asyncio.ensure_future(CollectionServiceStub(channel).GetCollection(ASKED))
            await servicer.begun.acquire()
            deletion = stub.DeleteCollection(
                pb.DeleteCollectionRequest(name="collections/a"), metadata=narrow.bearer(roles=["admin"])
            )
            of_another_class = asyncio.ensure_future(deletion)
            await servicer.begun.acquire()
            servicer.let_go.set()
            await by_service
            await of_another_class


async def test_streams_that_last_take_no_place(narrow: World) -> None:
    watch = next(kind for kind in KINDS if "WatchJob" in kind.path)
    async with full(narrow) as (servicer, port, _), narrow.channel(port) as channel:
        watches = [watch.start(channel, metadata=narrow.bearer(roles=["admin"])) for _ in range(3)]
        for _ in watches:
            await servicer.begun.acquire()
        servicer.let_go.set()
        for each in watches:
            assert len(await responses_of(each)) == 2


async def test_who_waits_in_line_runs_when_its_turn_comes(world: World) -> None:
    one_waits = World(world.mesh.model_copy(update={"max_running_calls": 1, "max_waiting_calls": 1}), world.user_key)
    async with full(one_waits) as (servicer, _, stub):
        waiting = asyncio.ensure_future(stub.GetCollection(ASKED, metadata=one_waits.bearer(roles=["admin"])))
        while not REGISTRY.get_sample_value("ragweave_rpc_waiting", {"rate_class": "READ"}):
            await asyncio.sleep(0.005)
        assert servicer.calls == 1
        servicer.let_go.set()
        await waiting
        assert servicer.calls == 2
