"""Every mutation leaves an event: written ahead, ended with what its caller got, and lost to nothing that dies."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.api.httpbody_pb2 import HttpBody
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave import contract
from ragweave.internal.v1 import index_service_pb2, index_service_pb2_grpc
from ragweave.v1 import collection_service_pb2, document_service_pb2, document_service_pb2_grpc
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from services.mesh import interceptors
from services.mesh.audit import AuditEvent, new_event_id, unpacked
from services.mesh.audit_trail import EVENT, STREAM, AuditTrail
from services.mesh.errors import AlreadyExists, DependencyUnavailable
from services.mesh.redis import open_redis
from tests.audit_fakes import FakeTrail, NobodyDenied
from tests.jobs_store import Store, store_in
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Scripted, add_scripted, responses_of
from tests.mesh.test_mesh_serve import process
from tests.system_records import DELETE, event, publish

UPLOAD = "/ragweave.v1.DocumentService/UploadDocument"


class Index(index_service_pb2_grpc.IndexServiceServicer):
    """An internal method that changes something."""

    async def DropIndex(self, request: Any, context: Any) -> index_service_pb2.DropIndexResponse:
        return index_service_pb2.DropIndexResponse()


@dataclass
class Door:
    """A server whose mutations leave their events in a list."""

    world: World
    port: int
    channel: grpc.aio.Channel
    servicer: Scripted
    trail: FakeTrail

    async def delete(self, name: str = "collections/a", *, validate_only: bool = False, **claims: Any) -> Any:
        """DeleteCollection, by ann, an administrator unless the claims say otherwise."""
        request = collection_service_pb2.DeleteCollectionRequest(name=name, validate_only=validate_only)
        options = {name: claims.pop(name) for name in ("timeout",) if name in claims}
        metadata = (*self.world.bearer(**{"roles": ["admin"], **claims}), ("x-request-id", "call-1"))
        return await CollectionServiceStub(self.channel).DeleteCollection(request, metadata=metadata, **options)

    def one(self) -> AuditEvent:
        """The only event there is, ended."""
        (ended,) = self.trail.ended
        return ended


@asynccontextmanager
async def served(world: World, methods: Any = None) -> AsyncIterator[Door]:
    trail, servicer = FakeTrail(), Scripted()
    chain = interceptors.chain(world.mesh, methods or contract.methods(), trail, NobodyDenied())
    server = grpc.aio.server(interceptors=[chain])
    add_scripted(servicer, server)
    index_service_pb2_grpc.add_IndexServiceServicer_to_server(Index(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with world.channel(port) as channel:
        yield Door(world, port, channel, servicer, trail)
    await server.stop(0)


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    async with served(world) as made:
        yield made


async def code_of(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code()


async def until(holds: Any) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_a_mutation_is_written_ahead_and_ended_with_what_its_caller_got(door: Door) -> None:
    seen = []

    async def script() -> None:
        seen.extend(door.trail.begun)
        assert not door.trail.ended

    door.servicer.script = script
    await door.delete(jti="token-7")
    (begun,) = seen
    assert (begun.code, begun.outcome, begun.duration_ms) == ("", "UNKNOWN", 0.0)
    ended = door.one()
    assert ended == replace(begun, code="OK", duration_ms=ended.duration_ms)
    assert (ended.tenant, ended.subject, ended.service, ended.token_id) == ("acme", "ann", "", "token-7")
    assert (ended.method, ended.resource, ended.call_id) == (DELETE, "collections/a", "call-1")
    assert len(ended.trace_id) == 32
    assert ended.duration_ms > 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.path != UPLOAD], ids=str)
async def test_reads_leave_nothing(door: Door, kind: Any) -> None:
    await responses_of(kind.start(door.channel, metadata=door.world.bearer(roles=["admin"])))
    assert not door.trail.begun + door.trail.ended


async def test_what_is_refused_is_recorded_with_why(door: Door) -> None:
    assert await code_of(door.delete(roles=["reader"])) is grpc.StatusCode.PERMISSION_DENIED
    assert await code_of(door.delete("no such shape")) is grpc.StatusCode.INVALID_ARGUMENT
    door.servicer.script = _raising(AlreadyExists("there"))
    assert await code_of(door.delete()) is grpc.StatusCode.ALREADY_EXISTS
    door.servicer.script = _raising(ValueError("a defect"))
    assert await code_of(door.delete()) is grpc.StatusCode.INTERNAL
    assert [(each.code, each.outcome) for each in door.trail.ended] == [
        ("PERMISSION_DENIED", "REFUSED"),
        ("INVALID_ARGUMENT", "REFUSED"),
        ("ALREADY_EXISTS", "REFUSED"),
        ("INTERNAL", "FAILED"),
    ]
    assert door.trail.ended[1].resource == "no such shape"


async def test_a_caller_nobody_vouches_for_leaves_nothing(door: Door) -> None:
    request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
    stub = CollectionServiceStub(door.channel)
    assert await code_of(stub.DeleteCollection(request)) is grpc.StatusCode.UNAUTHENTICATED
    garbage = (("authorization", "Bearer a.b.c"),)
    assert await code_of(stub.DeleteCollection(request, metadata=garbage)) is grpc.StatusCode.UNAUTHENTICATED
    assert not door.trail.begun + door.trail.ended


async def test_what_only_validates_says_so(door: Door) -> None:
    await door.delete(validate_only=True)
    assert door.one().validate_only


async def test_a_relayed_call_names_the_service_and_on_whose_behalf(door: Door) -> None:
    who = replace(caller_of("ann"), token_id="token-9")
    async with door.world.channel_as(door.port, who, service="jobs") as channel:
        await CollectionServiceStub(channel).DeleteCollection(
            collection_service_pb2.DeleteCollectionRequest(name="collections/a")
        )
        await index_service_pb2_grpc.IndexServiceStub(channel).DropIndex(
            index_service_pb2.DropIndexRequest(collection_uid="b")
        )
    ended = door.one()  # the internal call left none
    assert (ended.subject, ended.service, ended.token_id) == ("ann", "jobs", "token-9")


async def test_an_upload_is_recorded_by_its_first_message_and_nothing_of_its_content(door: Door) -> None:
    async def parts() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
        yield document_service_pb2.UploadDocumentRequest(
            parent="collections/a", document_id="d", filename="salaries.txt", file=HttpBody(data=b"top secret")
        )
        await until(lambda: door.trail.begun)
        yield document_service_pb2.UploadDocumentRequest(file=HttpBody(data=b"more secrets"))

    stub = document_service_pb2_grpc.DocumentServiceStub(door.channel)
    await stub.UploadDocument(parts(), metadata=door.world.bearer(roles=["admin"]))
    assert [each.resource for each in door.trail.begun] == ["collections/a/documents/d"]
    assert (door.one().code, door.one().resource) == ("OK", "collections/a/documents/d")
    assert not [word for word in ("secret", "salaries") if word in repr(door.trail.begun + door.trail.ended)]


async def test_an_upload_that_is_refused_before_its_first_message_is_recorded(door: Door) -> None:
    call = KINDS[2].start(door.channel, metadata=door.world.bearer(roles=["reader"]))
    assert await code_of(call) is grpc.StatusCode.PERMISSION_DENIED
    assert (door.one().method, door.one().code) == (UPLOAD, "PERMISSION_DENIED")


async def test_a_call_that_is_given_up_or_late_is_recorded_as_that(world: World, door: Door) -> None:
    begun = asyncio.Event()

    async def script() -> None:
        begun.set()
        await asyncio.Event().wait()

    door.servicer.script = script
    calling = asyncio.ensure_future(door.delete())
    await begun.wait()
    calling.cancel()
    await until(lambda: door.trail.ended)
    assert door.one().code == "CANCELLED"
    short = {path: replace(method, timeout_s=0.05) for path, method in contract.methods().items()}
    async with served(world, short) as other:
        other.servicer.script = script
        assert await code_of(other.delete()) is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (other.one().code, other.one().outcome) == ("DEADLINE_EXCEEDED", "FAILED")


async def test_where_the_log_is_required_nothing_is_changed_without_it(door: Door) -> None:
    door.trail.refuses = True
    assert await code_of(door.delete()) is grpc.StatusCode.UNAVAILABLE
    assert door.servicer.calls == 0


def _raising(error: Exception) -> Any:
    async def script() -> None:
        raise error

    return script


# From here on the trail is the real one, over a real store.


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # short: a socket's path has 107 bytes


async def stream(url: str) -> list[AuditEvent]:
    async with open_redis(url, connections=1) as client:
        return [unpacked(fields[EVENT.encode()]) for _, fields in await client.xrange(STREAM)]


async def ready(channel: grpc.aio.Channel) -> None:
    """Waits until the server says that it serves."""
    health = health_pb2_grpc.HealthStub(channel)
    async for answer in health.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return


@asynccontextmanager
async def trail_to(store: Store, folder: Path, **settings: Any) -> AsyncIterator[AuditTrail]:
    mesh = World.in_folder(folder, redis_url=store.url, **settings).mesh
    async with AuditTrail.open(mesh) as trail:
        yield trail


async def test_what_has_begun_is_in_the_stream_when_the_handler_runs(folder: Path) -> None:
    with store_in(folder) as store:
        async with trail_to(store, folder) as trail:
            await trail.begin(event(1))
            assert await stream(store.url) == [event(1)]


async def test_many_at_once_share_writes_and_none_is_lost(folder: Path) -> None:
    events = [event(number) for number in range(1000)]
    with store_in(folder) as store:
        async with trail_to(store, folder) as trail:
            await asyncio.gather(*(trail.begin(each) for each in events))
        assert sorted(await stream(store.url), key=lambda each: each.event_id) == events


async def test_while_the_store_is_away_events_wait_and_are_in_the_log(folder: Path) -> None:
    with store_in(folder) as store, structlog.testing.capture_logs() as lines:
        async with trail_to(store, folder) as trail:
            await trail.begin(event(1))
            store.kill()
            await trail.begin(event(2))
            await trail.end(event(2, code="OK"))
            store.start()
            async with asyncio.timeout(10):
                while len(found := await stream(store.url)) < 3:
                    await asyncio.sleep(0.01)
    assert {(each.event_id, each.code) for each in found} == {
        (event(1).event_id, ""),
        (event(2).event_id, ""),
        (event(2).event_id, "OK"),
    }
    logged = [line for line in lines if line["event"] == "audit"]
    assert [(line["log_level"], line["event_id"], line["code"]) for line in logged] == [
        ("warning", event(2).event_id, ""),
        ("warning", event(2).event_id, "OK"),
    ]


async def test_a_required_trail_refuses_while_its_store_is_away(folder: Path) -> None:
    with store_in(folder) as store:
        async with trail_to(store, folder, audit_required=True) as trail:
            await trail.begin(event(1))
            store.kill()
            with pytest.raises(DependencyUnavailable):
                await trail.begin(event(2))
            await trail.end(event(2, code="UNAVAILABLE"))


async def test_events_beyond_the_buffer_are_in_the_log_alone(folder: Path) -> None:
    with store_in(folder) as store, structlog.testing.capture_logs() as lines:
        async with trail_to(store, folder, audit_buffer=3) as trail:
            store.kill()
            for number in range(10):
                await trail.begin(event(number))
            store.start()
            async with asyncio.timeout(10):
                while len(await stream(store.url)) < 3:
                    await asyncio.sleep(0.01)
    assert [line["event_id"] for line in lines if line["event"] == "audit"] == [event(n).event_id for n in range(10)]


async def test_a_caller_that_goes_while_its_event_is_written_undoes_nothing(folder: Path) -> None:
    with store_in(folder) as store:
        async with trail_to(store, folder) as trail:
            going = [asyncio.ensure_future(trail.begin(event(number))) for number in range(20)]
            await asyncio.sleep(0)
            for each in going:
                each.cancel()
            await asyncio.gather(*going, return_exceptions=True)
            await trail.begin(event(20))
        assert {each.event_id for each in await stream(store.url)} == {event(n).event_id for n in range(21)}


async def _delete_until_it_dies(channel: grpc.aio.Channel, world: World, acknowledged: set[str], prefix: str) -> None:
    for number in range(10_000):
        call_id = f"{prefix}-{number}"
        metadata = (*world.bearer(roles=["admin"]), ("x-request-id", call_id))
        request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
        try:
            await CollectionServiceStub(channel).DeleteCollection(request, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError:
            return
        acknowledged.add(call_id)


async def test_no_acknowledged_mutation_is_lost_when_its_process_and_then_the_store_are_killed(
    folder: Path, free_port: int
) -> None:
    world = World.in_folder(folder, redis_url=f"unix://{folder / 's'}")
    acknowledged: set[str] = set()
    with store_in(folder) as store:
        quiet = {"RAGWEAVE_SCRIPTED_PORT": str(free_port), "RAGWEAVE_LOG_LEVEL": "error"}
        await publish(store.url)
        async with process(world, "guarded", **quiet) as served, world.channel(free_port) as channel:
            await ready(channel)
            callers = [
                asyncio.create_task(_delete_until_it_dies(channel, world, acknowledged, f"c{number}"))
                for number in range(8)
            ]
            await until(lambda: len(acknowledged) > 100)
            served.signal(signal.SIGKILL)
            await asyncio.gather(*callers)
        store.kill()
        store.start()
        ended = {each.call_id for each in await stream(store.url) if each.code == "OK"}
        begun = {each.call_id for each in await stream(store.url) if not each.code}
    assert acknowledged <= ended
    assert ended <= begun, "each was written ahead"


def test_ids_sort_by_the_time_they_were_made() -> None:
    made = [new_event_id() for _ in range(100)]
    assert sorted(made) == sorted(made, key=lambda each: each[1])
    assert len({event_id for event_id, _ in made}) == 100
