"""Several edges that count together, through a rate limit service, and what happens while it is away."""

import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.v1 import collection_service_pb2, collection_service_pb2_grpc
from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World
from tests.mesh.limit_service import RESET_S, LimitService, running_limit_service
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

COLLECTIONS, SEARCH = "/api/v1/rag/collections", "/api/v1/rag/search"
LIMIT = 4
LIMITS = {"READ": {"free": LIMIT}, "SEARCH": {"anonymous": LIMIT}}
# A test waits for the answer, however busy the machine is.
PATIENT = {"rate_limits": LIMITS, "rate_limit_timeout_s": 5}


@asynccontextmanager
async def edges(tmp: pytest.TempPathFactory, number: int, **settings: Any) -> AsyncIterator[list[Edge]]:
    async with AsyncExitStack() as stack:
        world, backend = World.in_folder(tmp.mktemp("world")), Backend()
        port = await stack.enter_async_context(running_backend(world, backend))
        given = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())} | PATIENT | settings
        yield [
            await stack.enter_async_context(running_edge(world, tmp.mktemp("edge"), backend, **given))
            for _ in range(number)
        ]


@dataclass
class Pair:
    """Two edges and what counts for both."""

    one: Edge
    two: Edge
    service: LimitService


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    service = LimitService()
    async with (
        running_limit_service(service) as port,
        edges(tmp_path_factory, 2, rate_limit_service=f"127.0.0.1:{port}") as (one, two),
    ):
        service.read(one.log.with_name("ratelimit.yaml"))
        yield Pair(one, two, service)


async def test_a_caller_has_one_limit_however_many_edges_it_goes_through(pair: Pair) -> None:
    token = pair.one.bearer(sub="both")
    answers = [
        await edge.rest("GET", COLLECTIONS, headers=token) for edge in (pair.one, pair.two) * (LIMIT // 2) + (pair.one,)
    ]
    assert [each.status_code for each in answers] == [200] * LIMIT + [429]
    assert [each.headers["x-ratelimit-remaining"] for each in answers] == ["3", "2", "1", "0", "0"]
    assert {each.headers["x-ratelimit-limit"].partition(",")[0] for each in answers} == {str(LIMIT)}
    assert {each.headers["x-ratelimit-reset"] for each in answers} == {str(RESET_S)}


async def test_the_service_is_asked_with_the_same_descriptors(pair: Pair) -> None:
    pair.service.calls.clear()
    await pair.one.rest("GET", COLLECTIONS, headers=pair.one.bearer(sub="s", tenant="t", tier="gold"))
    await pair.two.rest("POST", SEARCH, {"query": "q"}, headers={})
    assert {
        (("class", "READ"), ("tier", "free"), ("tenant", "t"), ("subject", "s")): 1,
        (("class", "SEARCH"), ("tier", "anonymous"), ("masked_remote_address", "127.0.0.1/32")): 1,
    }.items() <= pair.service.calls.items()
    assert pair.service.domains == {"ragweave"}


async def test_calls_without_a_class_are_not_counted(pair: Pair) -> None:
    pair.service.calls.clear()
    await health_pb2_grpc.HealthStub(pair.one.channel).Check(health_pb2.HealthCheckRequest())
    assert not pair.service.calls


async def test_a_refusal_of_the_service_says_when_its_window_ends(pair: Pair) -> None:
    token = pair.one.bearer(sub="told")
    for _ in range(LIMIT):
        assert (await pair.one.rest("GET", COLLECTIONS, headers=token)).status_code == 200
    rest = await pair.two.rest("GET", COLLECTIONS, headers=token)
    assert rest.status_code == 429
    assert rest.headers["retry-after"] == str(RESET_S)
    assert set(rest.json()) == {"code", "message", "details"}
    info, _, retry = rest.json()["details"]
    assert (rest.json()["code"], info["reason"]) == (8, "RATE_LIMIT_EXCEEDED")
    assert retry["retryDelay"] == f"{RESET_S}s"

    request = collection_service_pb2.ListCollectionsRequest()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collection_service_pb2_grpc.CollectionServiceStub(pair.two.channel).ListCollections(
            request, metadata=tuple(token.items())
        )
    trailers = dict(caught.value.trailing_metadata() or ())
    assert (caught.value.code(), caught.value.details()) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED, rest.json()["message"],
    )  # fmt: skip
    assert trailers["grpc-retry-pushback-ms"] == f"{RESET_S}000"
    status = Status.FromString(bytes(trailers["grpc-status-details-bin"]))  # type: ignore[arg-type]
    assert [each.Is(kind.DESCRIPTOR) for each, kind in zip(status.details, (ErrorInfo, QuotaFailure), strict=True)]
    _, _, in_web = await pair.two.web("/ragweave.v1.CollectionService/ListCollections", request, token)
    assert in_web["grpc-status"] == "8"


async def test_a_flood_is_stopped_at_the_edge_before_the_service_is_asked(pair: Pair) -> None:
    token = pair.one.bearer(sub="flood")
    answers = [await pair.one.rest("GET", COLLECTIONS, headers=token) for _ in range(LIMIT * 3)]
    asked = pair.service.calls[("class", "READ"), ("tier", "free"), ("tenant", "acme"), ("subject", "flood")]
    assert answers[-1].status_code == 429
    assert answers[-1].headers["x-ratelimit-remaining"] == "0"
    assert answers[-1].headers["x-ratelimit-limit"] == str(LIMIT)
    assert answers[-1].headers["x-ratelimit-reset"] == answers[-1].headers["retry-after"] == "15"
    assert asked < len(answers)


async def test_while_the_service_is_away_each_edge_counts_for_itself(tmp_path_factory: pytest.TempPathFactory) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    async with edges(tmp_path_factory, 1, rate_limit_service=nowhere, rate_limit_timeout_s=0.2) as (edge,):
        answers = [await edge.rest("GET", COLLECTIONS) for _ in range(LIMIT + 1)]
        assert [each.status_code for each in answers] == [200] * LIMIT + [429]


async def test_told_to_deny_an_edge_refuses_until_the_service_is_back(tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    given = {"rate_limit_service": f"127.0.0.1:{port}", "rate_limit_failure": "deny"}
    async with edges(tmp_path_factory, 1, **given) as (edge,):
        refused = await edge.rest("GET", COLLECTIONS)
        assert (refused.status_code, refused.json()["code"]) == (503, 14)
        assert refused.headers["retry-after"] == "1"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await collection_service_pb2_grpc.CollectionServiceStub(edge.channel).ListCollections(
                collection_service_pb2.ListCollectionsRequest(), metadata=tuple(edge.bearer().items())
            )
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await health_pb2_grpc.HealthStub(edge.channel).Check(health_pb2.HealthCheckRequest())
        service = LimitService()
        service.read(edge.log.with_name("ratelimit.yaml"))
        async with running_limit_service(service, port=port):
            assert (await edge.rest("GET", COLLECTIONS)).status_code == 200


async def test_a_service_that_never_answers_counts_as_away(tmp_path_factory: pytest.TempPathFactory) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        given = {"rate_limit_service": f"127.0.0.1:{deaf.getsockname()[1]}", "rate_limit_timeout_s": 0.05}
        async with edges(tmp_path_factory, 1, **given) as (edge,):
            assert (await edge.rest("GET", COLLECTIONS)).status_code == 200
