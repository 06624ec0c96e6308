"""The audit log from end to end: mutations of one service, recorded and listed by another, whatever is killed."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from ragweave.v1 import audit_event_pb2, collection_service_pb2, system_service_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.system_service_pb2_grpc import SystemServiceStub
from services.mesh.audit_trail import STREAM
from services.mesh.guards import open_guards
from services.mesh.redis import open_redis
from services.system.__main__ import wire
from services.system.settings import Settings
from tests.jobs_store import store_in
from tests.mesh.harness import World
from tests.mesh.kinds import Scripted, add_scripted
from tests.mesh.test_mesh_audit import ready
from tests.mesh.test_mesh_serve import process
from tests.system_records import publish


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # short: a socket's path has 107 bytes


async def delete(channel: grpc.aio.Channel, world: World, call_id: str, **claims: object) -> None:
    metadata = (*world.bearer(**{"roles": ["admin"], **claims}), ("x-request-id", call_id))
    request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
    await CollectionServiceStub(channel).DeleteCollection(request, metadata=metadata)


async def listed(
    channel: grpc.aio.Channel, world: World, filter: str = "", **claims: object
) -> list[audit_event_pb2.AuditEvent]:
    """Every event of the tenant, page by page."""
    found: list[audit_event_pb2.AuditEvent] = []
    token = ""
    while True:
        request = system_service_pb2.ListAuditEventsRequest(page_size=100, page_token=token, filter=filter)
        metadata = world.bearer(**{"roles": ["admin"], **claims})
        page = await SystemServiceStub(channel).ListAuditEvents(request, metadata=metadata)
        found += page.audit_events
        if not (token := page.next_page_token):
            assert page.total_size == len(found)
            return found


@asynccontextmanager
async def acting(world: World) -> AsyncIterator[grpc.aio.Channel]:
    """A service that changes things."""
    async with world.serving(add_scripted, Scripted()) as port, world.channel(port) as channel:
        await ready(channel)
        yield channel


async def test_a_mutation_is_listed_to_its_own_tenants_administrators(folder: Path) -> None:
    with store_in(folder) as store:
        await publish(store.url)
        world = replace(World.in_folder(folder, redis_url=store.url, deny_list_refresh_s=0.05), guard=open_guards)
        async with (
            acting(world) as channel,
            world.running(wire, Settings(mesh=world.mesh, port=0), name="system") as port,
            world.channel(port) as system,
        ):
            await ready(system)
            await delete(channel, world, "of-acme", jti="t1")
            await delete(channel, world, "of-other", tenant="other")
            async with asyncio.timeout(10):
                while not (found := await listed(system, world, 'outcome = "SUCCEEDED"')):
                    await asyncio.sleep(0.01)
            (event,) = found
            assert (event.call_id, event.subject, event.token_id, event.code) == ("of-acme", "ann", "t1", "OK")
            assert (event.resource, event.method) == (
                "collections/a",
                "/ragweave.v1.CollectionService/DeleteCollection",
            )
            assert event.event_time.ToSeconds() > 0
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await listed(system, world, roles=["editor"])
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await listed(system, world, 'tenant = "other"')
            assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_killing_system_and_the_store_loses_no_event_and_doubles_none(folder: Path, free_port: int) -> None:
    quiet = {"RAGWEAVE_LOG_LEVEL": "error", "RAGWEAVE_SYSTEM_PORT": str(free_port)}
    rounds, calls = 1, 60
    with store_in(folder) as store:
        await publish(store.url)
        world = replace(World.in_folder(folder, redis_url=store.url, deny_list_refresh_s=0.05), guard=open_guards)
        system = process(world, module="services.system", RAGWEAVE_SYSTEM_AUDIT_CLAIM_S="0.2", **quiet)
        async with acting(world) as channel, world.channel(free_port) as log:
            for number in range(rounds):
                async with process(world, module="services.system", **quiet) as served:
                    await ready(log)
                    for half in range(2):
                        made = [delete(channel, world, f"{number}-{half}-{each}") for each in range(calls // 2)]
                        await asyncio.gather(*made)
                        if not half:
                            served.signal(signal.SIGKILL)
                store.kill()
                store.start()
            async with system:
                await ready(log)
                async with asyncio.timeout(60), open_redis(store.url, connections=1) as client:
                    while len(found := await listed(log, world, 'outcome = "SUCCEEDED"')) < rounds * calls:
                        await asyncio.sleep(0.05)
                    while await client.xlen(STREAM):  # what is recorded is trimmed
                        await asyncio.sleep(0.05)
        assert len({each.call_id for each in found}) == len({each.name for each in found}) == rounds * calls
