"""A service that does not answer: left alone after some failures, told of by name, asked again once it is back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import grpc
import pytest

from services.mesh.breakers import Breaker, Breakers, Limits, State
from services.mesh.errors import DependencyUnavailable, IndexFailed, InvalidArgument
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Kind, Scripted, add_scripted, responses_of

each_kind = pytest.mark.parametrize("kind", KINDS, ids=str)
GET = KINDS[0]


@pytest.fixture
def breakers() -> Iterator[Breakers]:
    made = Breakers(Limits(failures=2, open_s=600, look_s=0.02))
    with made.wiring():
        yield made


@asynccontextmanager
async def calling(world: World, breakers: Breakers, port: int) -> AsyncIterator[tuple[grpc.aio.Channel, Breaker]]:
    async with world.channel_as(port, caller_of()) as channel:
        yield channel, breakers.of(world.target(port))


@each_kind
async def test_a_service_that_is_gone_is_left_alone_and_found_again(
    world: World, breakers: Breakers, kind: Kind, free_port: int
) -> None:
    async with calling(world, breakers, free_port) as (channel, breaker):
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError):
                await responses_of(kind.start(channel))
        with pytest.raises(DependencyUnavailable) as refused:
            await responses_of(kind.start(channel))
        assert refused.value.metadata["service"] == world.target(free_port)
        servicer = Scripted()
        async with world.serving(add_scripted, servicer, port=free_port):
            async with asyncio.timeout(30):
                while breaker.state is State.OPEN:
                    await asyncio.sleep(0.01)
            await responses_of(kind.start(channel))
            assert (breaker.state, servicer.calls > 0) == (State.CLOSED, True)


@each_kind
@pytest.mark.parametrize("error", [IndexFailed("the index failed"), InvalidArgument("name: is wrong")])
async def test_a_service_that_fails_at_a_call_is_not_gone(
    world: World, breakers: Breakers, kind: Kind, error: Exception
) -> None:
    async def failing() -> None:
        raise error

    async with (
        world.serving(add_scripted, Scripted(failing)) as port,
        calling(world, breakers, port) as (channel, breaker),
    ):
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await responses_of(kind.start(channel))
        assert (breaker.state, breaker.failures) == (State.CLOSED, 0)


async def test_a_service_that_hangs_is_gone_and_one_that_had_no_time_is_not(world: World, free_port: int) -> None:
    def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mutes.append(writer)

    mutes: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(mute, "127.0.0.1", free_port)
    async with server:
        for slow_s, counted in ((60.0, 0), (0.0, 1)):
            with (made := Breakers(Limits(slow_s=slow_s, look_s=0))).wiring():
                async with calling(world, made, free_port) as (channel, breaker):
                    with pytest.raises(grpc.aio.AioRpcError) as late:
                        await GET.start(channel, timeout=0.05)
                    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
                    assert breaker.failures == counted
        for writer in mutes:
            writer.close()
