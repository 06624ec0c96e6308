"""Two real servers of which one calls the other, for each of gRPC's kinds."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from services.mesh.channels import open_channel
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from tests.mesh.harness import World
from tests.mesh.kinds import Kind, Scripted, add_scripted, responses_of


class Relay:
    """Two real servers: calls to the first make the first call the second, by the same kind of RPC."""

    def __init__(self, world: World, port: int, near: grpc.aio.Channel, first: Scripted, second: Scripted) -> None:
        self.world, self.port, self.near, self.first, self.second = world, port, near, first, second

    def start(self, kind: Kind, **options: Any) -> Any:
        metadata = (*self.world.bearer(roles=["admin"], sub="bo", tenant="t7"), *options.pop("metadata", ()))
        return kind.start(self.near, metadata=metadata, **options)

    async def failure(self, kind: Kind) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await responses_of(self.start(kind))
        return raised.value


@asynccontextmanager
async def relaying(world: World, kind: Kind, *, second_port: int | None = None) -> AsyncIterator[Relay]:
    second = Scripted()
    async with AsyncExitStack() as opened:
        if second_port is None:
            second_port = await opened.enter_async_context(world.serving(add_scripted, second, name="second"))
        first = Scripted()

        @asynccontextmanager
        async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
            async with open_channel(settings.mesh, world.target(second_port)) as channel:

                async def relay() -> None:
                    await responses_of(kind.start(channel))

                first.script = relay
                yield Wiring(lambda server: add_scripted(first, server))

        port = await opened.enter_async_context(world.running(wire, world.settings(), name="first"))
        near = await opened.enter_async_context(world.channel(port))
        yield Relay(world, port, near, first, second)
