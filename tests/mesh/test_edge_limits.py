"""Rate limits through a real Envoy: whose bucket a call is counted in, what is refused, and how that is said."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave.v1 import collection_service_pb2, collection_service_pb2_grpc
from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
COLLECTIONS = f"{API}/collections"
SEARCH = f"{API}/search"
# Few calls a minute, so that little is earned back while a test runs; WRITE for the tests of earning.
LIMITS = {
    "READ": {"anonymous": 3, "free": 3, "pro": 6},
    "SEARCH": {"anonymous": 2, "free": 4, "pro": 4},
    "WRITE": {"anonymous": 600, "free": 600, "pro": 600},
}
BURST, PRO_BURST, SEARCH_BURST, ANONYMOUS_BURST = 3, 6, 4, 2
RATE_HEADERS = {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"}


@asynccontextmanager
async def limited(tmp: pytest.TempPathFactory, **settings: Any) -> AsyncIterator[Edge]:
    world, backend = World.in_folder(tmp.mktemp("world")), Backend()
    async with running_backend(world, backend) as port:
        given = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        async with running_edge(
            world, tmp.mktemp("edge"), backend, **{"rate_limits": LIMITS, **given, **settings}
        ) as edge:
            yield edge


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with limited(tmp_path_factory) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def behind(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    """An edge behind one proxy it trusts, which remembers ten callers of each class and tier."""
    async with limited(tmp_path_factory, trusted_hops=1, rate_limit_subjects=10) as running:
        yield running


async def read(edge: Edge, path: str = COLLECTIONS, **claims: Any) -> httpx.Response:
    return await edge.rest("GET", path, headers=edge.bearer(**claims))


async def search(edge: Edge, **headers: str) -> httpx.Response:
    """An anonymous search."""
    return await edge.rest(
        "POST", SEARCH, {"query": "q"}, headers={key.replace("_", "-"): headers[key] for key in headers}
    )


async def use_up(edge: Edge, burst: int = BURST, **claims: Any) -> httpx.Response:
    """Takes a caller's READ bucket to its end; returns the refusal."""
    answers = [await read(edge, **claims) for _ in range(burst + 1)]
    assert [each.status_code for each in answers] == [200] * burst + [429]
    return answers[-1]


async def test_a_class_is_one_bucket_however_many_methods_and_doors_it_has(edge: Edge) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    token = edge.bearer(sub="many-methods")
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    assert (await edge.rest("GET", COLLECTIONS, headers=token)).status_code == 200
    assert await stub.GetCollection(request, metadata=tuple(token.items()))
    _, _, trailers = await edge.web("/ragweave.v1.CollectionService/GetCollection", request, token)
    assert trailers["grpc-status"] == "0"
    for path in (COLLECTIONS, f"{COLLECTIONS}/a", f"{COLLECTIONS}/a/stats", f"{API}/jobs", f"{API}/models"):
        assert (await edge.rest("GET", path, headers=token)).status_code == 429, path


async def test_classes_have_buckets_of_their_own(edge: Edge) -> None:
    await use_up(edge, sub="two-classes")
    token = edge.bearer(sub="two-classes")
    statuses = [(await edge.rest("POST", SEARCH, {"query": "q"}, headers=token)).status_code for _ in range(5)]
    assert statuses == [200] * SEARCH_BURST + [429]
    assert (await edge.rest("DELETE", f"{COLLECTIONS}/a", headers=token)).status_code == 200


async def test_the_same_subject_of_two_tenants_has_two_buckets(edge: Edge) -> None:
    await use_up(edge, sub="bob", tenant="one")
    await use_up(edge, sub="bob", tenant="two")
    await use_up(edge, sub="carl", tenant="one")


async def test_the_separation_does_not_depend_on_how_names_are_written(edge: Edge) -> None:
    for tenant, subject in (("a", "b|c"), ("a|b", "c"), ("a,subject=b", "c"), ("a", "-"), ("-", "a"), ("A", "-")):
        await use_up(edge, sub=subject, tenant=tenant)


async def test_the_tier_comes_from_the_token_and_an_unknown_one_is_free(edge: Edge) -> None:
    await use_up(edge, PRO_BURST, sub="p", tier="pro")
    for subject, tier in (("t1", "gold"), ("t2", None), ("t3", ""), ("t4", "anonymous"), ("t5", "PRO"), ("t6", "pro ")):
        await use_up(edge, sub=subject, tier=tier)


@pytest.mark.parametrize(
    "claims", [{"tier": 5}, {"tier": ["pro"]}, {"tier": {"pro": 1}}, {"tenant": None}, {"sub": None}]
)
async def test_a_token_whose_claims_are_not_as_they_should_be_is_limited_too(
    edge: Edge, claims: dict[str, Any]
) -> None:
    given = {"tenant": f"odd {sorted(claims)} {claims.get('tier')}", "sub": "odd", **claims}
    answers = [await read(edge, **given) for _ in range(BURST + 2)]
    assert answers[-1].status_code == 429
    assert 200 not in [each.status_code for each in answers]


async def test_what_a_client_sends_beside_its_token_changes_nothing(edge: Edge) -> None:
    await use_up(edge, sub="spoofer")
    for headers in (
        {"x-forwarded-for": "203.0.113.7"},
        {"x-ragweave-subject": "other", "x-ragweave-tier": "pro", "x-ragweave-tenant": "other"},
        {
            "x-envoy-ratelimited": "false",
            "x-envoy-original-path": "/grpc.health.v1.Health/Check",
            "x-envoy-internal": "true",
        },
        {"x-real-ip": "203.0.113.7", "forwarded": "for=203.0.113.7", "x-ratelimit-remaining": "100"},
        {"x-tier": "pro", "tier": "pro", "sub": "other"},
    ):
        refused = await edge.rest("GET", COLLECTIONS, headers={**edge.bearer(sub="spoofer"), **headers})
        assert refused.status_code == 429, headers
    assert (await edge.rest("GET", f"{COLLECTIONS}?x=1", headers=edge.bearer(sub="spoofer"))).status_code == 400
    assert (await edge.rest("GET", f"//{COLLECTIONS}", headers=edge.bearer(sub="spoofer"))).status_code == 429


async def test_another_token_of_the_same_caller_brings_no_new_bucket(edge: Edge) -> None:
    await use_up(edge, sub="renewing")
    assert (await read(edge, sub="renewing", jti="another", exp=int(time.time()) + 60)).status_code == 429
    assert (await read(edge, sub="renewing", roles=["reader"])).status_code == 429


async def test_callers_without_a_token_share_the_bucket_of_their_address(edge: Edge) -> None:
    statuses = [(await search(edge)).status_code for _ in range(ANONYMOUS_BURST + 1)]
    assert statuses == [200] * ANONYMOUS_BURST + [429]
    assert (await search(edge, x_forwarded_for="203.0.113.7")).status_code == 429
    assert (await search(edge, authorization="Basic YTpi")).status_code == 401  # nor does another scheme pass
    with_token = await edge.rest("POST", SEARCH, {"query": "q"}, headers=edge.bearer(sub="same-address"))
    assert with_token.status_code == 200
    assert with_token.headers["x-ratelimit-limit"] == str(SEARCH_BURST)


async def test_addresses_are_told_apart_and_an_ipv6_network_is_one(behind: Edge) -> None:
    for address in ("203.0.113.1", "203.0.113.2", "2001:db8:1:1::1", "2001:db8:1:2::1"):
        statuses = [(await search(behind, x_forwarded_for=address)).status_code for _ in range(ANONYMOUS_BURST + 1)]
        assert statuses == [200] * ANONYMOUS_BURST + [429], address
    assert (await search(behind, x_forwarded_for="2001:db8:1:1:ffff::9")).status_code == 429
    assert (await search(behind, x_forwarded_for="1.2.3.4, 203.0.113.1")).status_code == 429  # the proxy's word counts


async def test_past_the_callers_remembered_the_one_silent_longest_is_forgotten(behind: Edge) -> None:
    await use_up(behind, sub="first")
    for number in range(8):
        await read(behind, sub=f"other {number}")
    assert (await read(behind, sub="first")).status_code == 429  # remembered, and now the last to call
    for number in range(9):
        await read(behind, sub=f"yet another {number}")
    assert (await read(behind, sub="first")).status_code == 429
    for number in range(10):
        await read(behind, sub=f"at last another {number}")
    assert (await read(behind, sub="first")).status_code == 200


async def test_health_is_never_limited(edge: Edge) -> None:
    stub = health_pb2_grpc.HealthStub(edge.channel)
    for _ in range(20):
        call = stub.Check(health_pb2.HealthCheckRequest())
        assert (await call).status == health_pb2.HealthCheckResponse.SERVING
        assert not RATE_HEADERS & set(dict(await call.initial_metadata()))


async def test_every_answer_of_a_method_says_how_many_calls_are_left(edge: Edge) -> None:
    token = edge.bearer(sub="counting")
    answers = [
        await edge.rest("GET", COLLECTIONS, headers=token),
        await edge.rest("GET", f"{COLLECTIONS}/missing", headers=token),
        await edge.rest("GET", COLLECTIONS, headers=edge.bearer(sub="counting", roles=[])),
        await edge.rest("GET", COLLECTIONS, headers=token),
    ]
    assert [each.status_code for each in answers] == [200, 404, 403, 429]
    assert [each.headers["x-ratelimit-remaining"] for each in answers] == ["2", "1", "0", "0"]
    assert {each.headers["x-ratelimit-limit"] for each in answers} == {"3"}
    assert [each.headers["x-ratelimit-reset"] for each in answers] == ["0", "0", "20", "20"]
    assert ["retry-after" in each.headers for each in answers] == [False, False, False, True]


async def test_a_page_may_read_the_headers(edge: Edge) -> None:
    answer = await edge.rest("GET", COLLECTIONS, headers={**edge.bearer(sub="page"), "origin": "http://localhost:3000"})
    exposed = {name.strip() for name in answer.headers["access-control-expose-headers"].split(",")}
    assert {"retry-after", *RATE_HEADERS} <= exposed


async def test_a_refusal_over_rest_is_429_in_the_one_shape(edge: Edge) -> None:
    refused = await use_up(edge, PRO_BURST, sub="rest", tier="pro")
    message = "more than 6 READ calls a minute, the limit of tier pro"
    assert refused.headers["content-type"] == "application/json"
    assert refused.headers["retry-after"] == "10"
    assert refused.json() == {
        "code": 8,
        "message": message,
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "RATE_LIMIT_EXCEEDED",
                "domain": "ragweave",
                "metadata": {"class": "READ", "tier": "pro", "limit": "6"},
            },
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [{"subject": "class:READ", "description": message}],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "10s"},
        ],
    }


async def test_a_refusal_over_grpc_and_grpc_web_is_resource_exhausted_with_the_same_details(edge: Edge) -> None:
    rest = await use_up(edge, sub="grpc")
    request = collection_service_pb2.ListCollectionsRequest()
    token = edge.bearer(sub="grpc")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collection_service_pb2_grpc.CollectionServiceStub(edge.channel).ListCollections(
            request, metadata=tuple(token.items())
        )
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    trailers = dict(caught.value.trailing_metadata() or ())
    assert trailers["grpc-retry-pushback-ms"] == "20000"
    assert trailers["x-ratelimit-remaining"] == "0"
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    status, info, retry = Status.FromString(details), ErrorInfo(), RetryInfo()
    assert status.message == caught.value.details() == rest.json()["message"]
    assert status.details[0].Unpack(info)
    assert status.details[2].Unpack(retry)
    assert dict(info.metadata) == rest.json()["details"][0]["metadata"]
    assert retry.retry_delay.seconds == 20

    web, body, in_web = await edge.web("/ragweave.v1.CollectionService/ListCollections", request, token)
    assert (web.status_code, body, in_web["grpc-status"], in_web["grpc-message"]) == (200, b"", "8", status.message)
    assert Status.FromString(base64.b64decode(in_web["grpc-status-details-bin"])) == status


async def test_a_caller_who_waits_as_told_is_let_in(edge: Edge) -> None:
    token, delete = edge.bearer(sub="patient"), f"{COLLECTIONS}/a"
    while (refused := await edge.rest("DELETE", delete, headers=token)).status_code != 429:
        await asyncio.gather(*(edge.rest("DELETE", delete, headers=token) for _ in range(50)))
    assert refused.json()["details"][2]["retryDelay"] == "0.100s"
    assert refused.headers["retry-after"] == "1"
    await asyncio.sleep(0.1)
    assert (await edge.rest("DELETE", delete, headers=token)).status_code == 200


@dataclass
class Tally:
    """One caller's calls: how many passed, and the longest and shortest time they can have spanned at the edge."""

    passed: int = 0
    refused: int = 0
    ended_refused: bool = False
    first_sent: float = 0.0
    first_answered: float = 0.0
    last_sent: float = 0.0
    last_answered: float = 0.0

    async def count(self, call: Any) -> None:
        sent = time.monotonic()
        try:
            await call
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
            self.refused, self.ended_refused = self.refused + 1, True
        else:
            self.passed, self.ended_refused = self.passed + 1, False
        self.last_sent, self.last_answered = sent, time.monotonic()
        self.first_sent = self.first_sent or sent
        self.first_answered = self.first_answered or self.last_answered

    def most(self, burst: int, per_s: float) -> int:
        """Calls that may have passed, in the longest time the edge can have seen between the first and the last."""
        return burst + int(per_s * (self.last_answered - self.first_sent))

    def least(self, burst: int, per_s: float) -> int:
        """Calls that must have passed, in the shortest such time, of a caller who never let its bucket run over."""
        return burst + int(per_s * (self.last_sent - self.first_answered))


async def test_a_thousand_callers_at_once_each_get_their_burst_and_refill_and_nothing_of_each_other(edge: Edge) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    callers = [(f"subject-{number % 500}", f"tenant-{number // 500}") for number in range(1000)]
    tokens = {who: tuple(edge.bearer(sub=who[0], tenant=who[1]).items()) for who in callers}
    tallies = {who: Tally() for who in callers}
    get = collection_service_pb2.GetCollectionRequest(name="collections/a")
    list_all = collection_service_pb2.ListCollectionsRequest()
    # All of them at once, again and again: what one has left is known only to who remembers a thousand.
    for turn in range(BURST + 2):
        method, request = (stub.GetCollection, get) if turn % 2 else (stub.ListCollections, list_all)
        await asyncio.gather(*(tallies[who].count(method(request, metadata=tokens[who])) for who in callers))
    deprived = {who: tally for who, tally in tallies.items() if tally.passed < BURST}
    favoured = {who: tally for who, tally in tallies.items() if tally.passed > tally.most(BURST, BURST / 60)}
    assert not deprived
    assert not favoured


async def test_what_passes_over_time_is_burst_plus_refill_within_one_call(edge: Edge) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    token, tally, burst = tuple(edge.bearer(sub="hammer").items()), Tally(), LIMITS["WRITE"]["free"]
    request = collection_service_pb2.DeleteCollectionRequest(name="collections/a")
    while tally.passed < burst + 20 or not tally.ended_refused:
        await tally.count(stub.DeleteCollection(request, metadata=token))
    assert tally.least(burst, burst / 60) <= tally.passed <= tally.most(burst, burst / 60)
