"""What the audit log costs a mutation, and the deny list every call: `python -m benchmarks.audit [--rounds N]`.

One bare service with the whole interceptor chain, with and without its guards, over a store that syncs every write.
Both are asked in turn, one call at a time and 16 at a time, for a mutation and for a read that do nothing; the medians
of all calls are compared. Client and server share one process: the differences, not the sums, are what a call costs.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import grpc

from ragweave.v1 import collection_service_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from services.mesh.guards import open_guards
from services.mesh.telemetry import configure_logs
from tests.jobs_store import store_in
from tests.mesh.harness import World
from tests.mesh.kinds import Scripted, add_scripted
from tests.mesh.test_mesh_audit import ready
from tests.system_records import publish

_CALLS = 400


async def measure(rounds: int) -> None:
    configure_logs("bench", "error", {})  # a line a call would be measured, too
    with tempfile.TemporaryDirectory(prefix="rw-") as name:
        folder = Path(name)
        with store_in(folder) as store:
            await publish(store.url)
            bare = World.in_folder(folder, redis_url=store.url, log_level="error")
            worlds = {"bare": bare, "guarded": replace(bare, guard=open_guards)}
            async with AsyncExitStack() as opened:
                channels = {}
                for kind, world in worlds.items():
                    port = await opened.enter_async_context(world.serving(add_scripted, Scripted()))
                    channels[kind] = await opened.enter_async_context(world.channel(port))
                    await ready(channels[kind])
                metadata = bare.bearer(roles=["admin"])
                for callers in (1, 16):
                    for what, call in (("mutation", _mutation), ("read", _read)):
                        taken: dict[str, list[float]] = {kind: [] for kind in channels}
                        for _ in range(rounds):
                            for kind, channel in channels.items():
                                taken[kind] += await _us_each(call, channel, metadata, callers)
                        us = {kind: statistics.median(each) for kind, each in taken.items()}
                        print(
                            f"{callers:>2} at a time, {what:<8}: bare {us['bare']:7.0f} us, guarded "
                            f"{us['guarded']:7.0f} us a call: {us['guarded'] - us['bare']:+7.0f} us"
                        )


async def _us_each(
    call: Callable[[grpc.aio.Channel, object], Awaitable[object]],
    channel: grpc.aio.Channel,
    metadata: object,
    callers: int,
) -> list[float]:
    """Microseconds each call takes, of so many callers at a time."""
    taken: list[float] = []

    async def ask() -> None:
        for _ in range(_CALLS // callers):
            started = time.perf_counter()
            await call(channel, metadata)
            taken.append((time.perf_counter() - started) * 1e6)

    await asyncio.gather(*(ask() for _ in range(callers)))
    return taken


def _mutation(channel: grpc.aio.Channel, metadata: object) -> Awaitable[object]:
    request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
    return CollectionServiceStub(channel).DeleteCollection(request, metadata=metadata)  # type: ignore[no-any-return]


def _read(channel: grpc.aio.Channel, metadata: object) -> Awaitable[object]:
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    return CollectionServiceStub(channel).GetCollection(request, metadata=metadata)  # type: ignore[no-any-return]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    asyncio.run(measure(parser.parse_args().rounds))
