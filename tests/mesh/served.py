"""A process of the mesh for tests to start, stop and kill: `python -m tests.mesh.served scripted|guarded|worker`."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.mesh.guards import open_guards
from services.mesh.serve import Wiring, serve, serve_worker
from services.mesh.settings import ServiceSettings
from tests.audit_fakes import unguarded
from tests.mesh.kinds import Scripted, add_scripted


class Settings(ServiceSettings):
    """Read from RAGWEAVE_SCRIPTED_*."""

    model_config = SettingsConfigDict(env_prefix="RAGWEAVE_SCRIPTED_", frozen=True)

    takes_s: float = Field(0.5, description="Seconds of a call: more than the pause of a drain, less than its grace.")


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    """The scripted services; says when a call begins, and when its resources close."""

    async def slowly() -> None:
        print("handling", flush=True)
        await asyncio.sleep(settings.takes_s)

    try:
        yield Wiring(lambda server: add_scripted(Scripted(slowly), server))
    finally:
        print("closed", flush=True)


@asynccontextmanager
async def wire_worker(settings: Settings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Work that says how it begins and ends."""

    async def work() -> None:
        print("working", flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print("put down", flush=True)

    try:
        yield work
    finally:
        print("closed", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(serve_worker("scripted", wire_worker, Settings()))
    else:
        guard = open_guards if sys.argv[1] == "guarded" else unguarded
        asyncio.run(serve("scripted", wire, Settings(), guard=guard))
