"""Dependencies that fail altogether for a while: what they still get, when they are left alone, how soon they are back.

    python -m tests.failing [--failing 60]      (`make breaker-test`)

A service, Redis and a rerank endpoint, each through the adapter that production has, and the rerank endpoint once more
from outside: through Envoy, retrieval and embedding, all processes of a mesh of their own. Each is asked 20 times a
second, fails for 60 s with what fails worst (a server that takes each call and breaks it, health checks that lie), and
is mended. It must get at most twice what is offered, be left alone after at most 5 failures, and answer again within
35 s.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

import grpc
import structlog

from ragweave import AsyncClient, RagweaveError
from ragweave.cli.console import edge_credentials
from services.embedding.adapters.endpoint import Endpoint
from services.embedding.adapters.rerank_endpoints import CohereReranker
from services.embedding.models import RerankerSpec
from services.jobs.adapters.redis import Redis
from services.mesh.breakers import Breakers, Limits
from services.mesh.calls import current_call
from services.mesh.errors import DependencyUnavailable
from tests.e2e.stack import Mesh
from tests.jobs_store import Store, store_in
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Scripted, add_scripted, nothing
from tests.rerank_server import RerankServer, rerank_server

MOST_FAILURES: Final = 5
MOST_BACK_S: Final = 35.0
_EVERY_S: Final = 0.05
# Questions that a dependency is asked while it fails, however slow the machine.
_LEAST: Final = 30
_MODEL: Final = "flaky"
_COLLECTION: Final = "failing"
_DOCUMENTS: Final = [
    {"document_id": "cat", "text": "the cat eats fish", "document": {"mime_type": "text/plain"}},
    {"document_id": "dog", "text": "the dog sleeps", "document": {"mime_type": "text/plain"}},
]
_ALL: Final = 1_000_000


class Outcome(Enum):
    ANSWERED = auto()
    FAILED = auto()
    REFUSED = auto()


@dataclass(frozen=True)
class Rig:
    """A dependency and how it is asked.

    Attributes:
        ask: Asks once, through everything that stands before the dependency.
        fail, mend: Have it fail at everything from now on, and no longer.
        attempts: How often it was asked, as it knows itself.
    """

    name: str
    ask: Callable[[], Awaitable[Outcome]]
    fail: Callable[[], None]
    mend: Callable[[], None]
    attempts: Callable[[], int]


@dataclass(frozen=True)
class Figures:
    """How a dependency fared.

    Attributes:
        failures: Questions that failed before the first that was refused without asking.
        attempts: What it got while it failed, of what was `offered`.
        refusal_s: What a refusal took, in the median.
        back_s: From being mended to the first answer.
    """

    name: str
    offered: int
    attempts: int
    failures: int
    refusal_s: float
    back_s: float

    @property
    def good(self) -> bool:
        return self.attempts <= 2 * self.offered and self.failures <= MOST_FAILURES and self.back_s <= MOST_BACK_S

    def __str__(self) -> str:
        return (
            f"{self.name:<38} offered {self.offered:>5}  got {self.attempts:>3}  left alone after {self.failures} "
            f"failures  a refusal takes {self.refusal_s * 1e3:.3f} ms  back after {self.back_s:.1f} s"
        )


async def measured(rig: Rig, failing_s: float) -> Figures:
    while await rig.ask() is not Outcome.ANSWERED:
        await asyncio.sleep(_EVERY_S)
    before, outcomes, refusals = rig.attempts(), [], []
    rig.fail()
    until = time.monotonic() + failing_s
    while (begun := time.monotonic()) < until or len(outcomes) < _LEAST:
        outcomes.append(await rig.ask())
        took_s = time.monotonic() - begun
        if outcomes[-1] is Outcome.REFUSED:
            refusals.append(took_s)
        await asyncio.sleep(max(0.0, _EVERY_S - took_s))
    got = rig.attempts() - before
    rig.mend()
    mended = time.monotonic()
    while await rig.ask() is not Outcome.ANSWERED:
        await asyncio.sleep(_EVERY_S)
    failures = outcomes.index(Outcome.REFUSED) if refusals else len(outcomes)
    refusal_s = sorted(refusals)[len(refusals) // 2] if refusals else float("inf")
    return Figures(rig.name, len(outcomes), got, failures, refusal_s, time.monotonic() - mended)


@asynccontextmanager
async def service(folder: Path, limits: Limits) -> AsyncIterator[Rig]:
    """A service that says it serves, and ends each call as a server that goes away does."""

    async def gone() -> None:
        call = current_call()
        assert call is not None
        await call.context.abort(grpc.StatusCode.UNAVAILABLE, "gone")

    world, servicer = World.in_folder(folder), Scripted()
    async with world.serving(add_scripted, servicer) as port:
        with Breakers(limits).wiring():
            opened = world.channel_as(port, caller_of())
            channel = await opened.__aenter__()
        try:

            async def ask() -> Outcome:
                try:
                    await KINDS[0].start(channel)
                except DependencyUnavailable:
                    return Outcome.REFUSED
                except grpc.aio.AioRpcError:
                    return Outcome.FAILED
                return Outcome.ANSWERED

            def turn(script: Callable[[], Awaitable[None]]) -> None:
                servicer.script = script

            yield Rig("a service", ask, lambda: turn(gone), lambda: turn(nothing), lambda: servicer.calls)
        finally:
            await opened.__aexit__(None, None, None)


@asynccontextmanager
async def redis(folder: Path, limits: Limits) -> AsyncIterator[Rig]:
    """The store of jobs, behind a door that takes each connection and closes it."""
    with store_in(folder) as store:
        async with _door(store) as door:
            with Breakers(limits).wiring():
                opened = Redis.open(door.url)
                jobs = await opened.__aenter__()
            try:

                async def ask() -> Outcome:
                    try:
                        await jobs.ping()
                    except DependencyUnavailable as error:
                        return Outcome.REFUSED if _refused(error.message) else Outcome.FAILED
                    return Outcome.ANSWERED

                yield Rig("Redis, as jobs ask it", ask, door.shut, door.open, lambda: door.connections)
            finally:
                await opened.__aexit__(None, None, None)


@asynccontextmanager
async def endpoint(folder: Path, limits: Limits) -> AsyncIterator[Rig]:
    """A rerank endpoint that answers 503 and says to come again at once."""
    with rerank_server() as server, Breakers(limits).wiring():
        async with Endpoint.open(f"{server.url}/cohere/rerank") as opened:
            reranker = CohereReranker(RerankerSpec(_MODEL, _MODEL), opened, _MODEL)

            async def ask() -> Outcome:
                try:
                    await reranker.scores("acme", "who", ["the cat"], truncate=True, timeout_s=5)
                except DependencyUnavailable as error:
                    return Outcome.REFUSED if _refused(error.message) else Outcome.FAILED
                return Outcome.ANSWERED

            yield Rig("a rerank endpoint", ask, *_failing(server))


@asynccontextmanager
async def searches(folder: Path, limits: Limits) -> AsyncIterator[Rig]:
    """The same from outside: searches that must be reranked, through Envoy, by the client that repeats what it may."""
    with rerank_server() as server:
        mesh = Mesh(
            folder,
            RAGWEAVE_EMBEDDING_RERANK_MODELS=f"{_MODEL}=tei+{server.url}/tei",
            RAGWEAVE_BREAKER_OPEN_S=str(limits.open_s),
        )
        await asyncio.to_thread(mesh.ragweave, "up")
        try:
            await asyncio.to_thread(_filled, mesh)
            async with AsyncClient(mesh.edge, token=mesh.token(), credentials=edge_credentials(mesh.layout)) as client:
                yield Rig("the same, from outside the mesh", lambda: _search(client), *_failing(server))
        finally:
            await asyncio.to_thread(mesh.ragweave, "down")


async def _search(client: AsyncClient) -> Outcome:
    try:
        await client.search(
            "the cat",
            _COLLECTION,
            rerank={"model": _MODEL},
            cache_control="BYPASS",
            require_all=True,
        )
    except RagweaveError as error:
        return Outcome.REFUSED if _refused(error.message) else Outcome.FAILED
    return Outcome.ANSWERED


def _filled(mesh: Mesh) -> None:
    with mesh.client() as client:
        client.create_collection(_COLLECTION)
        client.wait(client.import_texts(_COLLECTION, _DOCUMENTS).name)


def _failing(server: RerankServer) -> tuple[Callable[[], None], Callable[[], None], Callable[[], int]]:
    def fail() -> None:
        server.failures = [(503, {"retry-after": "0"})] * _ALL

    return fail, lambda: server.failures.clear(), lambda: len(server.asked)


def _refused(message: str) -> bool:
    """Whether a breaker says so, and not the dependency."""
    return message.endswith(" is unavailable")


class _Door:
    """What stands before a store; shut, it takes connections and closes them."""

    def __init__(self, store: Store, path: Path) -> None:
        self._store = store
        self._shut = False
        self._through: set[asyncio.StreamWriter] = set()
        self.url = f"unix://{path}"
        self.connections = 0

    def shut(self) -> None:
        self._shut = True
        for each in self._through:
            each.close()

    def open(self) -> None:
        self._shut = False

    async def enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self._shut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_unix_connection(str(self._store.socket))
        both = {writer, far_writer}
        self._through |= both
        await asyncio.gather(_pumped(reader, far_writer), _pumped(far_reader, writer))
        self._through -= both


async def _pumped(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def _door(store: Store) -> AsyncIterator[_Door]:
    path = store.socket.with_name("d")
    door = _Door(store, path)
    server = await asyncio.start_unix_server(door.enter, str(path))
    async with server:
        yield door
        door.shut()


RIGS: Final[tuple[Callable[[Path, Limits], AbstractAsyncContextManager[Rig]], ...]] = (service, redis, endpoint)


async def _all(failing_s: float) -> list[Figures]:
    async def one(made: Callable[[Path, Limits], AbstractAsyncContextManager[Rig]]) -> Figures:
        with tempfile.TemporaryDirectory(prefix="rw") as folder:
            async with made(Path(folder), Limits()) as rig:
                figures = await measured(rig, failing_s)
                print(figures, flush=True)
                return figures

    return list(await asyncio.gather(*(one(each) for each in (*RIGS, searches))))


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--failing", type=float, default=60.0, metavar="S", help="how long they fail, in seconds")
    failing_s = arguments.parse_args().failing
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    found = asyncio.run(_all(failing_s))
    return 0 if all(each.good for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
