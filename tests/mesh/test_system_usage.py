"""Figures of searches on their way from a process that searches to a tenant's administrators."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from ragweave.internal.v1.usage_service_pb2 import RecordUsageRequest
from ragweave.internal.v1.usage_service_pb2_grpc import UsageServiceStub
from ragweave.v1.system_service_pb2 import GetUsageRequest, GetUsageResponse
from ragweave.v1.system_service_pb2_grpc import SystemServiceStub
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller
from services.retrieval.adapters.system import SystemUsage
from services.retrieval.tally import HourTally
from services.retrieval.usage import Usage
from services.system.__main__ import wire
from services.system.settings import Settings
from tests.jobs_store import store_in
from tests.mesh.harness import World
from tests.retrieval_fakes import view

ITSELF = Caller.of_service("retrieval", "default")


class CutOff(SystemUsage):
    """Loses every second answer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel, ITSELF)
        self.sent = 0

    async def record(self, batch_id: str, tallies: Any) -> None:
        await super().record(batch_id, tallies)
        self.sent += 1
        if self.sent % 2:
            raise DependencyUnavailable("cut off")


async def test_what_replicas_count_adds_up_for_their_tenant_and_nobody_else(
    tmp_path_factory: pytest.TempPathFactory, free_port: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("r")  # short: a socket's path has 107 bytes
    with store_in(folder) as store:
        world = World.in_folder(folder, redis_url=store.url)
        settings = Settings(mesh=world.mesh, port=free_port)
        async with (
            world.channel_as(free_port, ITSELF, service="retrieval") as channel,
            world.channel(free_port) as outside,
        ):
            one, other = CutOff(channel), CutOff(channel)
            replicas = [Usage(each, interval_s=600) for each in (one, other)]
            for usage, seconds in zip(replicas, (0.010, 0.100), strict=True):
                for tenant, searched, total in (("acme", ["docs", "manuals"], 0), ("globex", ["theirs"], 1)):
                    search = usage.search(tenant)
                    search.views, search.total = [view(each) for each in searched], total
                    usage.answered(search, seconds)
                refused = usage.search("acme")
                refused.views = [view("docs")]
                usage.failed(refused)
                await usage.flush()  # nobody listens yet
            async with world.running(wire, settings, name="system"):
                await asyncio.wait_for(channel.channel_ready(), 10)
                for usage in replicas:
                    await usage.flush()
                    await usage.flush()
                assert (one.sent, other.sent) == (2, 2), "each batch came twice"

                async def told(**claims: Any) -> GetUsageResponse:
                    metadata = world.bearer(**{"roles": ["admin"], **claims})
                    answer: GetUsageResponse = await SystemServiceStub(outside).GetUsage(
                        GetUsageRequest(granularity="DAY"), metadata=metadata
                    )
                    return answer

                ours = await told()
                by_collection = {each.collection: each.figures for each in ours.usage}
                assert by_collection.keys() == {"collections/docs", "collections/manuals"}
                docs = by_collection["collections/docs"]
                assert (docs.queries, docs.errors, docs.zero_results) == (4, 2, 2)
                assert (ours.total.queries, ours.total.errors) == (4, 2)
                assert docs.latency.p50.ToMicroseconds() == pytest.approx(10_000, rel=0.05)
                assert [each.collection for each in (await told(tenant="globex")).usage] == ["collections/theirs"]
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await told(roles=["editor"])
                assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
                forged = RecordUsageRequest(batch_id="b", rows=[{"tenant": "globex", "queries": 1, "time": {}}])
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await UsageServiceStub(outside).RecordUsage(forged, metadata=world.bearer(roles=["admin"]))
                assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
                unnamed = HourTally("", "", "", 0, queries=1)
                with pytest.raises(grpc.aio.AioRpcError):
                    await SystemUsage(channel, ITSELF).record("b", [unnamed])
