"""Starts the system service: `python -m services.system`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from services.mesh.serve import Wiring, serve
from services.system.settings import Settings


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    def register(server: grpc.aio.Server) -> None:
        """Its servicers come with the domain."""

    yield Wiring(register)


if __name__ == "__main__":
    asyncio.run(serve("system", wire, Settings()))
