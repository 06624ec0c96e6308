"""A real Envoy, rendered from the contract, before a real server whose servicers do what the request tells them."""

import asyncio
import importlib
import json
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ragweave import contract
from ragweave.certificates import EDGE
from ragweave.contract import Method
from ragweave.v1 import (
    collection_pb2,
    collection_service_pb2,
    document_pb2,
    document_service_pb2,
    health_pb2,
    job_pb2,
    job_service_pb2,
    search_pb2,
    system_service_pb2,
)
from services.mesh.calls import current_call
from services.mesh.edge import OWNERS, command, render
from services.mesh.edge_limits import DEFAULT_LIMITS
from services.mesh.edge_settings import EdgeSettings
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, InvalidArgument
from services.mesh.health import tell_edge
from services.mesh.reports import State
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from tests.mesh.harness import World
from tests.ports import free_port, listens

READY_S = 20.0
# More than any test sends; tests of the limits set their own.
GENEROUS = {name: dict.fromkeys(tiers, 10_000_000) for name, tiers in DEFAULT_LIMITS.items()}


@dataclass
class Seen:
    """What reached the servicers."""

    paths: list[str] = field(default_factory=list)
    searches: list[search_pb2.SearchRequest] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    remaining_s: list[float | None] = field(default_factory=list)
    uploads: list[tuple[document_service_pb2.UploadDocumentRequest, int, int]] = field(default_factory=list)
    cancels: int = 0


def _stubs(service: str) -> Any:
    """The generated module of a service, such as ragweave.v1.job_service_pb2_grpc."""
    [file] = {
        each.descriptor.containing_service.file for each in contract.methods().values() if each.service == service
    }
    return importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2_grpc")


def _add_to(server: grpc.aio.Server, service: str, servicer: object) -> None:
    getattr(_stubs(service), f"add_{service.rpartition('.')[2]}Servicer_to_server")(servicer, server)


class Backend:
    """Echoes; fails where the query or name says so.

    Such as "missing", "unavailable 2" (twice), "gone 2" (as if nobody answered), "slow", "invalid", "crash".
    """

    def __init__(self) -> None:
        self.seen = Seen()
        self.failures = 0
        self.health = State.SERVING

    def note(self, context: grpc.aio.ServicerContext) -> None:
        call = current_call()
        assert call is not None
        self.seen.paths.append(call.method.path)
        self.seen.metadata.append(dict(context.invocation_metadata() or ()))
        self.seen.remaining_s.append(context.time_remaining())

    async def _obey(self, word: str) -> None:
        what, _, times = word.partition(" ")
        if what == "slow":
            await asyncio.Event().wait()
        if what == "invalid":
            raise InvalidArgument.of("query", "is not what the backend wants")
        if what == "missing":
            raise CollectionNotFound("collections/missing does not exist", collection="missing")
        if what == "crash":
            raise RuntimeError("secret driver text")
        if what == "unavailable" and self.failures < int(times):
            self.failures += 1
            raise DependencyUnavailable("the vector store does not answer", retry_after_s=2)
        if what == "gone" and self.failures < int(times):
            self.failures += 1
            call = current_call()
            assert call is not None
            await call.context.abort(grpc.StatusCode.UNAVAILABLE, "as a server that goes away answers")

    async def Search(
        self, request: search_pb2.SearchRequest, context: grpc.aio.ServicerContext
    ) -> search_pb2.SearchResponse:
        self.seen.searches.append(request)
        self.note(context)
        await self._obey(request.query)
        hit = search_pb2.Hit(text=request.query, score=0.5)
        return search_pb2.SearchResponse(hits=[hit], total_size=1)

    async def BatchSearch(
        self, request: search_pb2.BatchSearchRequest, context: grpc.aio.ServicerContext
    ) -> search_pb2.BatchSearchResponse:
        self.note(context)
        await self._obey(request.requests[0].query)
        return search_pb2.BatchSearchResponse()

    async def CreateCollection(
        self, request: collection_service_pb2.CreateCollectionRequest, context: grpc.aio.ServicerContext
    ) -> collection_pb2.Collection:
        self.note(context)
        await self._obey(request.collection.description)
        request.collection.name = f"collections/{request.collection_id}"
        return request.collection

    async def GetCollection(
        self, request: collection_service_pb2.GetCollectionRequest, context: grpc.aio.ServicerContext
    ) -> collection_pb2.Collection:
        self.note(context)
        await self._obey(request.name.rpartition("/")[2])
        return collection_pb2.Collection(name=request.name, visibility=collection_pb2.Collection.PUBLIC)

    async def ListCollections(
        self, request: collection_service_pb2.ListCollectionsRequest, context: grpc.aio.ServicerContext
    ) -> collection_service_pb2.ListCollectionsResponse:
        self.note(context)
        return collection_service_pb2.ListCollectionsResponse(next_page_token=request.filter)

    async def UpdateCollection(
        self, request: collection_service_pb2.UpdateCollectionRequest, context: grpc.aio.ServicerContext
    ) -> collection_pb2.Collection:
        self.note(context)
        request.collection.description += ",".join(request.update_mask.paths)
        return request.collection

    async def CreateDocument(
        self, request: document_service_pb2.CreateDocumentRequest, context: grpc.aio.ServicerContext
    ) -> document_service_pb2.CreateDocumentResponse:
        self.note(context)
        document = document_pb2.Document(metadata=request.document.metadata, size_bytes=len(request.text))
        return document_service_pb2.CreateDocumentResponse(document=document)

    async def UploadDocument(
        self,
        request_iterator: AsyncIterator[document_service_pb2.UploadDocumentRequest],
        context: grpc.aio.ServicerContext,
    ) -> document_service_pb2.UploadDocumentResponse:
        self.note(context)
        first, size, parts = None, 0, 0
        async for part in request_iterator:
            first = first or part
            size, parts = size + len(part.file.data), parts + 1
        assert first is not None
        self.seen.uploads.append((first, size, parts))
        return document_service_pb2.UploadDocumentResponse(document=document_pb2.Document(size_bytes=size))

    async def WatchJob(
        self, request: job_service_pb2.WatchJobRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        self.note(context)
        await self._obey(request.name.rpartition("/")[2])
        for sequence in range(request.after_sequence + 1, 4):
            yield job_service_pb2.WatchJobResponse(sequence=sequence, job=job_pb2.Job(name=request.name))
        yield job_service_pb2.WatchJobResponse(final_status={"code": 0, "message": "ended"})

    async def GetHealth(
        self, request: system_service_pb2.GetHealthRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.Health:
        self.note(context)
        tell_edge(self.health)
        return health_pb2.Health(state=health_pb2.Health.State.Value(self.health))

    async def CancelJob(
        self, request: job_service_pb2.CancelJobRequest, context: grpc.aio.ServicerContext
    ) -> job_pb2.Job:
        self.note(context)
        self.seen.cancels += 1
        return job_pb2.Job(name=request.name)


def _empty(method: Method) -> Callable[..., Awaitable[Message]]:
    async def answer(self: Backend, request: Message, context: grpc.aio.ServicerContext) -> Message:
        self.note(context)
        return GetMessageClass(method.descriptor.output_type)()

    return answer


async def _unknown(self: Backend, requests: AsyncIterator[Message], context: grpc.aio.ServicerContext) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this backend has no such method")


for _method in contract.methods().values():  # what Backend does not define answers with an empty message
    if not _method.internal and _method.name not in Backend.__dict__:
        setattr(Backend, _method.name, _unknown if _method.client_streaming else _empty(_method))


@dataclass
class Edge:
    """A running edge, as its clients see it."""

    world: World
    settings: EdgeSettings
    backend: Backend
    http: httpx.AsyncClient
    channel: grpc.aio.Channel
    log: Path

    def bearer(self, **claims: Any) -> dict[str, str]:
        """The header with ann's token: an admin's unless the claims say otherwise."""
        return dict(self.world.bearer(**{"roles": ["admin"], **claims}))

    async def rest(self, verb: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        """A REST call with an admin's token, or `headers`; a body that is not bytes is sent as JSON."""
        headers = {**more.pop("headers", self.bearer())}
        if body is not None:
            headers.setdefault("content-type", "application/json")
            more["content"] = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.http.request(verb, path, headers=headers, **more)

    async def web(
        self, path: str, request: Any, headers: dict[str, str]
    ) -> tuple[httpx.Response, bytes, dict[str, str]]:
        """A gRPC-Web call: the response, the message's bytes, and the trailers, of the body or of the headers."""
        payload = request.SerializeToString()
        sent = {**headers, "content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
        response = await self.http.post(path, headers=sent, content=b"\0" + struct.pack(">I", len(payload)) + payload)
        message, trailers = b"", {key: value for key, value in response.headers.items() if key.startswith("grpc-")}
        for flags, data in _frames(response.content):
            if flags & 0x80:
                trailers |= dict(line.split(":", 1) for line in data.decode().split("\r\n") if line)
            else:
                message = data
        return response, message, trailers

    async def stats(self) -> dict[str, int]:
        """Envoy's counters and gauges."""
        url = f"http://127.0.0.1:{self.settings.admin_port}/stats?format=json"
        found = (await self.http.get(url)).json()["stats"]
        return {each["name"]: each["value"] for each in found if "name" in each}

    def logged(self) -> list[dict[str, Any]]:
        """The access log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def _frames(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        flags, size = struct.unpack(">BI", content[at : at + 5])
        yield flags, content[at + 5 : at + 5 + size]
        at += 5 + size


@asynccontextmanager
async def running_backend(world: World, backend: Backend, *, port: int = 0, name: str = "test") -> AsyncIterator[int]:
    """The port of a mesh server with all of the backend's services."""

    def register(server: grpc.aio.Server) -> None:
        for service in contract.public_services():
            _add_to(server, service, backend)

    @asynccontextmanager
    async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
        yield Wiring(register)

    async with world.running(wire, world.settings(port), name=name) as taken:
        yield taken


@asynccontextmanager
async def running_edge(
    world: World,
    folder: Path,
    backend: Backend,
    *,
    waits_for: Sequence[str] = ("collections", "jobs", "retrieval"),
    **settings: Any,
) -> AsyncIterator[Edge]:
    """Envoy before `backend` (every service), or before the endpoints given; ready when the block starts."""
    edge_settings = EdgeSettings(
        mesh=world.mesh,
        **{
            "port": free_port(),
            "admin_port": free_port(),
            "concurrency": 1,
            "access_log": str(folder / "access.log"),
            "rate_limits": GENEROUS,
            **settings,
        },
    )
    render(edge_settings, folder)
    target = f"127.0.0.1:{edge_settings.port}"
    with (folder / "envoy.log").open("wb") as log:
        envoy = await asyncio.create_subprocess_exec(*command(edge_settings, folder), stdout=log, stderr=log)
    try:
        async with (
            _http(edge_settings, target) as http,
            _channel(edge_settings, target) as channel,
        ):
            edge = Edge(world, edge_settings, backend, http, channel, folder / "access.log")
            await _ready(edge, envoy, folder / "envoy.log", waits_for)
            yield edge
    finally:
        if envoy.returncode is None:
            envoy.terminate()
        await envoy.wait()


def _http(settings: EdgeSettings, target: str) -> httpx.AsyncClient:
    if not settings.https:
        return httpx.AsyncClient(base_url=f"http://{target}", timeout=30)
    trust = ssl.create_default_context(cafile=settings.mesh.certificates(EDGE).authority)
    return httpx.AsyncClient(base_url=f"https://{target}", timeout=30, verify=trust)


def _channel(settings: EdgeSettings, target: str) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    if not settings.https:
        return grpc.aio.insecure_channel(target, options=options)
    trust = settings.mesh.certificates(EDGE).authority.read_bytes()
    return grpc.aio.secure_channel(target, grpc.ssl_channel_credentials(trust), options=options)


@asynccontextmanager
async def edge_with_backend(folder: Path, **settings: Any) -> AsyncIterator[Edge]:
    """Envoy before one backend that has every service, in a world of its own."""
    world, backend = World.in_folder(folder / "world"), Backend()
    (folder / "edge").mkdir()
    async with running_backend(world, backend) as port:
        everywhere = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        async with running_edge(world, folder / "edge", backend, **everywhere, **settings) as edge:
            yield edge


async def _ready(edge: Edge, envoy: asyncio.subprocess.Process, log: Path, clusters: Sequence[str]) -> None:
    """Waits until Envoy serves and each of the clusters has a healthy host."""
    async with asyncio.timeout(READY_S):
        while True:
            if envoy.returncode is not None:
                raise AssertionError(log.read_text())
            try:
                stats = await edge.stats()
            except httpx.TransportError:
                stats = {}
            healthy = [stats.get(f"cluster.{name}.membership_healthy", 0) for name in clusters]
            # Envoy is live a moment before its workers listen.
            if stats.get("server.state") == 0 and all(healthy) and await listens(edge.settings.port):
                return
            await asyncio.sleep(0.05)
