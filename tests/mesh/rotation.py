"""Rotates keys under load and says what became of the calls: `python -m tests.mesh.rotation`, or `make rotate-test`."""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from ragweave.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)
from services.mesh.edge import OWNERS
from services.mesh.edge_run import EdgeKeys
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import Key, World, jwks, new_key

PATH = "/api/v1/rag/collections/a"
LIMIT_S = 60.0
PATIENCE_S = 120.0
Publish = Callable[[Sequence[Key]], None]


@dataclass
class Served:
    """A JWKS URL: the keys it serves, none while it is down, and how often it was asked."""

    url: str = ""
    keys: Sequence[Key] = ()
    asked: int = 0
    down: bool = False

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        body = jwks(*self.keys).encode()
        status = b"503 Service Unavailable" if self.down else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s" % (status, len(body), body))
        await writer.drain()
        writer.close()

    def publish(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys)

    async def asked_again(self, times: int = 2) -> None:
        """Returns when it has been asked so often from now on."""
        wanted = self.asked + times
        while self.asked < wanted:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(*keys: Key) -> AsyncIterator[Served]:
    source = Served(keys=keys)
    server = await asyncio.start_server(source.answer, "127.0.0.1", 0)
    async with server:
        source.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
        yield source


@asynccontextmanager
async def edge_of(world: World, folder: Path) -> AsyncIterator[tuple[Edge, int]]:
    """An edge of this world, and the port of the service behind it."""
    backend = Backend()
    async with running_backend(world, backend) as port:
        everywhere = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        async with running_edge(world, folder, backend, **everywhere) as edge:
            yield edge, port


@asynccontextmanager
async def edge_by_file(folder: Path) -> AsyncIterator[tuple[Edge, int, Publish]]:
    """An edge whose keys are in a file, with what its own process does there; and how to publish keys."""
    world = World.in_folder(folder)
    out = folder / "edge"
    out.mkdir()

    def publish(keys: Sequence[Key]) -> None:
        draft = Path(world.mesh.jwks).with_suffix(".new")
        draft.write_text(jwks(*keys))
        draft.rename(world.mesh.jwks)

    async with edge_of(world, out) as (edge, port):
        watching = asyncio.create_task(_watch(EdgeKeys(Path(world.mesh.jwks), out / "jwt.json")))
        try:
            yield edge, port, publish
        finally:
            watching.cancel()


async def _watch(keys: EdgeKeys) -> None:
    while True:
        keys.refresh()
        await asyncio.sleep(1)


@asynccontextmanager
async def edge_by_url(folder: Path, cache_s: int) -> AsyncIterator[tuple[Edge, int, Served]]:
    """An edge whose keys are at a URL, fetched again after `cache_s`; and that URL."""
    first = World.in_folder(folder, jwks_cache_s=cache_s)
    out = folder / "edge"
    out.mkdir()
    async with served(first.user_key) as source:
        world = World(first.mesh.model_copy(update={"jwks": source.url}), first.user_key)
        async with edge_of(world, out) as (edge, port):
            yield edge, port, source


@dataclass
class Load:
    """Callers without end, over REST and gRPC at the edge and at the service itself; `signer` signs their tokens."""

    edge: Edge
    port: int
    signer: Key
    answered: list[int] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with self.edge.world.channel(self.port) as direct:
            stubs = [collection_service_pb2_grpc.CollectionServiceStub(each) for each in (self.edge.channel, direct)]
            calls = [self._rest, *(self._over(stub) for stub in stubs)]
            self.answered = [0] * len(calls)
            callers = [asyncio.create_task(self._call(*each)) for each in enumerate(calls)]
            try:
                yield
            finally:
                for caller in callers:
                    caller.cancel()
                await asyncio.gather(*callers, return_exceptions=True)

    async def some_more(self, calls: int = 20) -> None:
        """Returns when each caller has so many further answers: none is still at a call it began before."""
        wanted = [before + calls for before in self.answered]
        while any(now < then for now, then in zip(self.answered, wanted, strict=True)):
            await asyncio.sleep(0.01)

    async def _call(self, caller: int, call: Callable[[dict[str, str]], Awaitable[str]]) -> None:
        while True:
            problem = await call(self.edge.bearer(key=self.signer))
            self.answered[caller] += 1
            if problem:
                self.failed.append(problem)

    async def _rest(self, headers: dict[str, str]) -> str:
        response = await self.edge.rest("GET", PATH, headers=headers)
        return "" if response.status_code == 200 else response.text

    def _over(self, stub: Any) -> Callable[[dict[str, str]], Awaitable[str]]:
        async def call(headers: dict[str, str]) -> str:
            request = collection_service_pb2.GetCollectionRequest(name="collections/a")
            try:
                await stub.GetCollection(request, metadata=tuple(headers.items()))
            except grpc.aio.AioRpcError as error:
                return f"{error.code()}: {error.details()}"
            return ""

        return call


@dataclass
class Rotation:
    """Seconds from publishing until the new key was accepted and the old one refused everywhere; and the calls."""

    accepted_s: float
    refused_s: float
    calls: int
    failed: list[str]
    stream_went_on: bool


async def rotate(edge: Edge, port: int, publish: Publish) -> Rotation:
    """Old key, both, new key: signing changes once everybody takes the new one, as a careful issuer would wait for."""
    old, new = edge.world.user_key, new_key()
    watch = job_service_pb2_grpc.JobServiceStub(edge.channel).WatchJob(
        job_service_pb2.WatchJobRequest(name="jobs/slow"), metadata=tuple(edge.bearer().items())
    )
    load = Load(edge, port, old)
    async with load.running():
        await load.some_more()
        publish([old, new])
        accepted_s = await _until(edge, port, new, accepted=True)
        load.signer = new
        await load.some_more()
        publish([new])
        refused_s = await _until(edge, port, old, accepted=False)
        await load.some_more()
    went_on = not watch.done()
    watch.cancel()
    return Rotation(accepted_s, refused_s, sum(load.answered), load.failed, went_on)


async def _until(edge: Edge, port: int, key: Key, *, accepted: bool) -> float:
    """Seconds until the edge and the service behind it accept a key, or refuse it."""
    begun = time.monotonic()
    async with edge.world.channel(port) as direct:
        stub = collection_service_pb2_grpc.CollectionServiceStub(direct)
        request = collection_service_pb2.GetCollectionRequest(name="collections/a")
        async with asyncio.timeout(PATIENCE_S):
            while True:
                at_edge = (await edge.rest("GET", PATH, headers=edge.bearer(key=key))).status_code == 200
                try:
                    await stub.GetCollection(request, metadata=tuple(edge.bearer(key=key).items()))
                    at_service = True
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
                    at_service = False
                if at_edge == at_service == accepted:
                    return time.monotonic() - begun
                await asyncio.sleep(0.05)


async def _campaign(cache_s: int) -> bool:
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for name in ("file", "url"):
            (Path(folder) / name).mkdir()
        async with edge_by_file(Path(folder) / "file") as (edge, port, publish):
            good &= _told("file", await rotate(edge, port, publish))
        async with edge_by_url(Path(folder) / "url", cache_s) as (edge, port, source):
            good &= _told("url", await rotate(edge, port, source.publish))
    return good


def _told(source: str, done: Rotation) -> bool:
    good = not done.failed and done.refused_s < LIMIT_S and done.stream_went_on
    figures = {
        "keys": source,
        "calls": done.calls,
        "failed": len(done.failed),
        "new_key_accepted_s": round(done.accepted_s, 1),
        "old_key_refused_s": round(done.refused_s, 1),
        "stream_went_on": done.stream_went_on,
        "good": good,
    }
    print(json.dumps(figures))
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache-s", type=int, default=30, help="seconds keys from a URL serve")
    sys.exit(not asyncio.run(_campaign(parser.parse_args().cache_s)))
