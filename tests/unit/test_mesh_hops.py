"""How outgoing calls are counted."""

import asyncio

import grpc
import pytest
from grpc.aio import AioRpcError, Metadata
from prometheus_client import CollectorRegistry

from services.mesh.hops import Hop

METHOD = "/ragweave.v1.EmbeddingService/Embed"


def refused(code: grpc.StatusCode) -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata())


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (refused(grpc.StatusCode.UNAVAILABLE), "UNAVAILABLE"),
        (refused(grpc.StatusCode.DEADLINE_EXCEEDED), "DEADLINE_EXCEEDED"),
        (asyncio.CancelledError(), "CANCELLED"),
        (GeneratorExit(), "CANCELLED"),
        (ValueError("no message of ours"), "UNKNOWN"),
    ],
)
def test_a_call_counts_by_what_ended_it(outcome: BaseException, code: str) -> None:
    registry = CollectorRegistry()
    with pytest.raises(type(outcome)), Hop(METHOD, registry):
        raise outcome
    assert registry.get_sample_value("ragweave_hop_total", {"method": METHOD, "code": code}) == 1
    assert registry.get_sample_value("ragweave_hop_seconds_count", {"method": METHOD}) == 1
    assert registry.get_sample_value("ragweave_hop_in_flight", {"method": METHOD}) == 0


def test_a_call_is_in_flight_until_it_ends_and_then_counts_once() -> None:
    registry = CollectorRegistry()
    with Hop(METHOD, registry), Hop(METHOD, registry):
        assert registry.get_sample_value("ragweave_hop_in_flight", {"method": METHOD}) == 2
        assert registry.get_sample_value("ragweave_hop_seconds_count", {"method": METHOD}) == 0
    assert registry.get_sample_value("ragweave_hop_total", {"method": METHOD, "code": "OK"}) == 2
