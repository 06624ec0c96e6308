"""A denied caller is refused by every process, streams included, until the denial ends."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.v1 import collection_service_pb2, revocation_pb2, system_service_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.system_service_pb2_grpc import SystemServiceStub
from services.mesh.channels import open_channel
from services.mesh.deny_list import Denial, Kind
from services.mesh.guards import open_guards
from services.mesh.identity import Caller
from services.mesh.serve import Wiring
from services.mesh.settings import ServiceSettings
from services.mesh.status import DETAILS_KEY
from services.system.__main__ import wire as wire_system
from services.system.settings import Settings
from tests.jobs_store import Store, store_in
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import KINDS, Scripted, add_scripted, responses_of
from tests.mesh.test_mesh_audit import stream
from tests.system_records import publish

PATIENCE_S = 30


@pytest.fixture
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("r")) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, store: Store) -> World:
    made = World.in_folder(tmp_path, redis_url=store.url, deny_list_refresh_s=0.05)
    return replace(made, guard=open_guards)


async def get(channel: grpc.aio.Channel, metadata: Any = None) -> Any:
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    return await CollectionServiceStub(channel).GetCollection(request, metadata=metadata)


async def outcome(call: Any) -> str:
    """ "OK", or the code and reason it ended with."""
    try:
        await responses_of(call)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {_reason(error)}"
    return "OK"


def _reason(error: grpc.aio.AioRpcError) -> str:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            info = error_details_pb2.ErrorInfo()
            Status.FromString(value).details[0].Unpack(info)
            return info.reason
    return ""


async def becomes(expected: str, ask: Any) -> None:
    """Waits until what `ask` starts ends so."""
    async with asyncio.timeout(PATIENCE_S):
        while await outcome(ask()) != expected:
            await asyncio.sleep(0.01)


@asynccontextmanager
async def scripted(world: World, servicer: Scripted | None = None) -> AsyncIterator[grpc.aio.Channel]:
    async with world.serving(add_scripted, servicer or Scripted()) as port, world.channel(port) as channel:
        yield channel


REVOKED = "UNAUTHENTICATED TOKEN_REVOKED"


async def test_what_an_administrator_revokes_is_refused_everywhere_until_it_is_let_in_again(world: World) -> None:
    leaked = world.bearer(roles=["admin"], sub="bob", jti="t-bob")
    other = world.bearer(roles=["admin"], sub="bob", jti="t-bob-2")
    elsewhere = world.bearer(roles=["admin"], sub="bob", jti="t-bob", tenant="other")
    admin = world.bearer(roles=["admin"], sub="ann")
    async with (
        world.running(wire_system, Settings(mesh=world.mesh, port=0, publish_interval_s=0.1), name="system") as port,
        world.channel(port) as system,
        scripted(world) as channel,
    ):
        stub = SystemServiceStub(system)
        await becomes("OK", lambda: _health(system))
        await becomes("OK", lambda: get(channel, leaked))
        by_token = await stub.CreateRevocation(
            system_service_pb2.CreateRevocationRequest(revocation=revocation_pb2.Revocation(token_id="t-bob")),
            metadata=admin,
        )
        await becomes(REVOKED, lambda: get(channel, leaked))
        assert await outcome(get(channel, other)) == "OK"
        by_subject = await stub.CreateRevocation(
            system_service_pb2.CreateRevocationRequest(revocation=revocation_pb2.Revocation(subject="bob")),
            metadata=admin,
        )
        await becomes(REVOKED, lambda: get(channel, other))
        listing = system_service_pb2.ListRevocationsRequest()
        await becomes(REVOKED, lambda: stub.ListRevocations(listing, metadata=other))  # by system too
        assert [each.name for each in (await stub.ListRevocations(listing, metadata=admin)).revocations] == [
            by_subject.name,
            by_token.name,
        ]
        assert await outcome(get(channel, elsewhere)) == "OK", "another tenant's bob is somebody else"
        for each in (by_token, by_subject):
            await stub.DeleteRevocation(
                system_service_pb2.DeleteRevocationRequest(name=each.name, etag=each.etag), metadata=admin
            )
        await becomes("OK", lambda: get(channel, leaked))


async def test_revoking_oneself_is_refused_and_another_tenants_revocations_do_not_exist(world: World) -> None:
    admin = world.bearer(roles=["admin"], sub="ann")
    async with (
        world.running(wire_system, Settings(mesh=world.mesh, port=0), name="system") as port,
        world.channel(port) as system,
    ):
        stub = SystemServiceStub(system)

        def create(**fields: Any) -> Any:
            revocation = revocation_pb2.Revocation(**fields)
            request = system_service_pb2.CreateRevocationRequest(revocation=revocation)
            return stub.CreateRevocation(request, metadata=admin)

        await becomes("FAILED_PRECONDITION FAILED_PRECONDITION", lambda: create(subject="ann"))
        made = await create(subject="bob")
        assert await outcome(create()) == "INVALID_ARGUMENT INVALID_ARGUMENT"
        eve = world.bearer(roles=["admin"], sub="eve", tenant="globex")
        deleting = system_service_pb2.DeleteRevocationRequest(name=made.name)
        assert await outcome(stub.DeleteRevocation(deleting, metadata=eve)) == "NOT_FOUND REVOCATION_NOT_FOUND"
        listed = await stub.ListRevocations(system_service_pb2.ListRevocationsRequest(), metadata=eve)
        assert listed.total_size == 0
        editor = world.bearer(roles=["editor"], sub="carl")
        assert await outcome(stub.DeleteRevocation(deleting, metadata=editor)) == "PERMISSION_DENIED PERMISSION_DENIED"


async def test_a_revocation_ends_at_its_time(world: World, store: Store) -> None:
    await publish(store.url, Denial("acme", Kind.SUBJECT, "ann", until=time.time() + 1.0))
    async with scripted(world) as channel:
        await becomes(REVOKED, lambda: get(channel, world.bearer(roles=["reader"])))
        await becomes("OK", lambda: get(channel, world.bearer(roles=["reader"])))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name != "unary"], ids=str)
async def test_streams_that_are_open_end_and_no_others(world: World, store: Store, kind: Any) -> None:
    await publish(store.url)
    begun = asyncio.Semaphore(0)

    async def script() -> None:
        begun.release()
        await asyncio.Event().wait()

    async with scripted(world, Scripted(script)) as channel:
        await becomes("OK", lambda: _health(channel))
        of_ann, of_bob = (
            asyncio.ensure_future(outcome(kind.start(channel, metadata=world.bearer(roles=["admin"], sub=sub))))
            for sub in ("ann", "bob")
        )
        for _ in range(2):
            await begun.acquire()
        await publish(store.url, Denial("acme", Kind.SUBJECT, "ann"))
        assert await of_ann == REVOKED
        assert not of_bob.done()
        of_bob.cancel()


async def _health(channel: grpc.aio.Channel) -> None:
    answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())


async def test_nobody_is_let_in_and_nothing_is_ready_before_the_list_is_known(world: World, store: Store) -> None:
    async with scripted(world) as channel:
        for _ in range(3):
            assert await outcome(get(channel, world.bearer(roles=["admin"]))) == "UNAVAILABLE DEPENDENCY_UNAVAILABLE"
            assert (await outcome(_health(channel))).startswith("UNAVAILABLE")
        await publish(store.url)
        await becomes("OK", lambda: _health(channel))
        assert await outcome(get(channel, world.bearer(roles=["admin"]))) == "OK"


async def test_a_process_that_starts_knows_what_was_revoked_before_and_goes_on_knowing_it(
    world: World, store: Store
) -> None:
    await publish(store.url, Denial("acme", Kind.TOKEN, "t1"))
    for _ in range(2):
        async with scripted(world) as channel:
            await becomes("OK", lambda: _health(channel))
            assert await outcome(get(channel, world.bearer(roles=["admin"], jti="t1"))) == REVOKED
    async with scripted(world) as channel:
        await becomes("OK", lambda: _health(channel))
        store.kill()
        assert await outcome(get(channel, world.bearer(roles=["admin"], jti="t1"))) == REVOKED
        assert await outcome(get(channel, world.bearer(roles=["admin"], jti="t2"))) == "OK"
        await _health(channel)


async def test_what_a_denied_caller_asked_to_change_is_in_the_audit_trail(world: World, store: Store) -> None:
    await publish(store.url, Denial("acme", Kind.TOKEN, "t1"))
    async with scripted(world) as channel:
        await becomes(REVOKED, lambda: get(channel, world.bearer(roles=["admin"], jti="t1")))
        request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
        metadata = world.bearer(roles=["admin"], jti="t1")
        assert await outcome(CollectionServiceStub(channel).DeleteCollection(request, metadata=metadata)) == REVOKED
    events = await stream(store.url)
    assert {(event.token_id, event.resource) for event in events} == {("t1", "collections/a")}
    assert {event.code for event in events} == {"", "UNAUTHENTICATED"}


class Relaying(Scripted):
    """Asks another service on behalf of its caller, and says what that says."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__()
        self._next = CollectionServiceStub(channel)

    async def GetCollection(self, request: Any, context: Any) -> Any:
        return await self._next.GetCollection(request)


async def test_whoever_is_denied_is_by_what_relays_the_call_too(world: World, store: Store) -> None:
    await publish(store.url)
    async with world.serving(add_scripted, Scripted()) as port:

        @asynccontextmanager
        async def wire(settings: ServiceSettings) -> AsyncIterator[Wiring]:
            async with open_channel(settings.mesh, world.target(port)) as channel:
                yield Wiring(lambda server: add_scripted(Relaying(channel), server))

        # The relay itself has not heard of the denial, as a process may not for some seconds.
        deaf = replace(world, guard=World.guard)
        async with deaf.running(wire, deaf.settings(), name="relay") as first, world.channel(first) as channel:
            asked = world.bearer(roles=["admin"], jti="t1")
            await becomes("OK", lambda: get(channel, asked))
            await publish(store.url, Denial("acme", Kind.TOKEN, "t1"))
            await becomes(REVOKED, lambda: get(channel, asked))
            assert await outcome(get(channel, world.bearer(roles=["admin"], jti="t2"))) == "OK"


async def test_what_a_service_does_by_itself_goes_on(world: World, store: Store) -> None:
    await publish(store.url, Denial("acme", Kind.TENANT))
    upkeep = Caller.of_service("collections", "acme")
    async with world.serving(add_scripted, Scripted()) as port:
        async with world.channel_as(port, upkeep, service="collections") as channel:
            await becomes("OK", lambda: get(channel))
        async with world.channel_as(port, caller_of("ann"), service="collections") as channel:
            assert await outcome(get(channel)) == REVOKED
