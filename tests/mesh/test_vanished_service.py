"""A service whose machine vanished: no FIN, no RST, only silence."""

import grpc
import pytest

from ragweave.v1 import collection_service_pb2
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from services.mesh import channels
from services.mesh.listening import PING_INTERVAL_MS
from tests.mesh.harness import World, caller_of
from tests.mesh.kinds import Scripted, add_scripted
from tests.tcp_relay import tcp_relay

ASKED = collection_service_pb2.GetCollectionRequest(name="collections/a")


async def test_calls_to_it_end_by_their_deadline_and_the_channel_connects_anew_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "KEEPALIVE_MS", 1000)
    async with (
        world.serving(add_scripted, Scripted(), name="scripted") as port,
        tcp_relay(world.target(port)) as relay,
        world.channel_as(relay.port, caller_of("ann")) as channel,
    ):
        stub = CollectionServiceStub(channel)
        await stub.GetCollection(ASKED)
        relay.vanish()
        before, late = relay.opened, 0
        while True:
            try:
                await stub.GetCollection(ASKED, timeout=0.3)
                break
            except grpc.aio.AioRpcError as error:
                assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
                late += 1
        assert late > 0
        assert relay.opened > before


def test_servers_take_no_offence_at_the_pings_of_channels() -> None:
    """gRPC's servers end a connection after pings that come faster than they allow (GOAWAY, too_many_pings)."""
    assert PING_INTERVAL_MS < channels.KEEPALIVE_MS
    assert channels.KEEPALIVE_MS * 1.5 < 10_000, "a peer that vanished is noticed within 10 s"
