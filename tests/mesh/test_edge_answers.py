"""What every answer of the edge carries, which are compressed, and who may read them: headers, encodings, origins."""

import gzip
import json
from collections.abc import AsyncIterator

import brotli
import grpc
import pytest
import pytest_asyncio

from ragweave.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    health_pb2,
    system_service_pb2,
    system_service_pb2_grpc,
)
from services.mesh.reports import State
from tests.mesh.edge_stack import Edge, edge_with_backend
from tests.mesh.test_edge_refusals import ON_EVERY_ANSWER, assert_on_every_answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
SEARCH, COLLECTIONS = f"{API}/search", f"{API}/collections"
PAGE = "http://localhost:3000"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with edge_with_backend(tmp_path_factory.mktemp("edge"), hsts_s=60) as running:
        yield running


async def test_rest_grpc_and_grpc_web_answers_carry_the_same_headers(edge: Edge) -> None:
    expected = {**ON_EVERY_ANSWER, "strict-transport-security": "max-age=60; includeSubDomains"}
    request = collection_service_pb2.GetCollectionRequest(name="collections/a")
    rest = await edge.rest("GET", f"{COLLECTIONS}/a")
    web, _, _ = await edge.web("/ragweave.v1.CollectionService/GetCollection", request, edge.bearer())
    missing = await edge.rest("GET", f"{COLLECTIONS}/missing")
    stream = await edge.rest("GET", f"{API}/jobs/j:watch")
    for answer in (rest, web, missing, stream):
        assert_on_every_answer(dict(answer.headers))
        assert expected.items() <= dict(answer.headers).items()
    call = collection_service_pb2_grpc.CollectionServiceStub(edge.channel).GetCollection(
        request, metadata=tuple(edge.bearer().items())
    )
    headers = {key: value for key, value in await call.initial_metadata() or ()}
    assert {name: headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("gzip", "gzip"),
        ("br", "br"),
        ("gzip, br", "br"),
        ("br, gzip", "br"),
        ("gzip;q=1, br;q=0.5", "gzip"),
        ("br;q=0, gzip", "gzip"),
        ("deflate", None),
        ("identity", None),
        ("", None),
    ],
)
async def test_json_over_a_kib_is_compressed_as_the_caller_likes_it(
    edge: Edge, accepted: str, chosen: str | None
) -> None:
    query = "text that repeats " * 200
    headers = {**edge.bearer(), "accept-encoding": accepted, "content-type": "application/json"}
    async with edge.http.stream("POST", SEARCH, headers=headers, content=json.dumps({"query": query})) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.headers.get("content-encoding") == chosen
    read = {"gzip": gzip.decompress, "br": brotli.decompress, None: bytes}[chosen]
    assert json.loads(read(raw))["hits"][0]["text"] == query
    if chosen:
        assert len(raw) < 1024
        assert "accept-encoding" in response.headers["vary"].lower()
    assert "accept-encoding" not in edge.backend.seen.metadata[-1]


async def test_small_answers_streams_and_grpc_are_not_compressed(edge: Edge) -> None:
    headers = {**edge.bearer(), "accept-encoding": "gzip, br"}
    small = await edge.rest("GET", f"{COLLECTIONS}/a", headers=headers)
    stream = await edge.rest("GET", f"{API}/jobs/{'j' * 127}:watch", headers=headers)
    assert "content-length" not in stream.headers  # of unknown length, a body is compressed whatever its size
    request = collection_service_pb2.GetCollectionRequest(name="collections/" + "a" * 127)
    web, _, trailers = await edge.web("/ragweave.v1.CollectionService/GetCollection", request, headers)
    for answer in (small, stream, web):
        assert answer.status_code == 200, answer.text
        assert "content-encoding" not in answer.headers
    assert stream.headers["content-type"] == "application/x-ndjson"
    assert trailers["grpc-status"] == "0"


@pytest.mark.parametrize("path", [SEARCH, COLLECTIONS, "/api/rag/search", "/api/v2/x", f"{API}/nope", "/nope"])
async def test_a_page_of_a_known_origin_may_ask_first_and_read_every_refusal(edge: Edge, path: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    allowed = await edge.http.options(path, headers={"origin": PAGE, **asks})
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    refused = await edge.rest("GET", path, headers={"origin": PAGE, "authorization": "Bearer nonsense"})
    assert refused.status_code >= 400
    assert set(refused.json()) == {"code", "message", "details"}
    assert refused.headers["access-control-allow-origin"] == PAGE
    exposed = refused.headers["access-control-expose-headers"]
    assert {"x-request-id", "retry-after", "deprecation", "sunset", "link"} <= set(exposed.split(", "))


async def test_a_page_of_another_origin_may_not(edge: Edge) -> None:
    for origin in ("http://evil.example", "null", "http://localhost.evil.example", "https://localhost:3000"):
        answer = await edge.rest("GET", f"{COLLECTIONS}/a", headers={**edge.bearer(), "origin": origin})
        assert "access-control-allow-origin" not in answer.headers
        assert "access-control-allow-credentials" not in answer.headers


async def test_a_caller_is_told_nothing_of_what_is_behind_the_edge(edge: Edge) -> None:
    for answer in (await edge.rest("GET", f"{COLLECTIONS}/a"), await edge.rest("GET", f"{COLLECTIONS}/crash")):
        assert not [name for name in answer.headers if name.startswith("x-envoy-") or name in ("via", "x-powered-by")]
        assert answer.headers["server"] == "ragweave"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await edge.channel.unary_unary("/ragweave.v1.CollectionService/GetCollection")(
            b"\xff\xff", metadata=tuple(edge.bearer().items())
        )
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "the message cannot be read as this method's request"


@pytest.mark.parametrize(("state", "status"), [(State.SERVING, 200), (State.DEGRADED, 200), (State.DOWN, 503)])
async def test_health_answers_strangers_with_a_status_that_says_how_it_is(
    edge: Edge, state: State, status: int
) -> None:
    edge.backend.health = state
    asked_before = len(edge.backend.seen.paths)
    answer = await edge.rest("GET", f"{API}/health", headers={})
    assert (answer.status_code, answer.json()["state"]) == (status, state)
    assert_on_every_answer(dict(answer.headers))
    assert not [name for name in answer.headers if name == "x-health" or name.startswith("x-ratelimit")]
    assert len(edge.backend.seen.paths) == asked_before + 1, "bad news is no failure, and not asked for again"
    call = system_service_pb2_grpc.SystemServiceStub(edge.channel).GetHealth(system_service_pb2.GetHealthRequest())
    assert (await call).state == health_pb2.Health.State.Value(state)
    web, message, trailers = await edge.web(
        "/ragweave.v1.SystemService/GetHealth", system_service_pb2.GetHealthRequest(), {}
    )
    assert (web.status_code, trailers["grpc-status"]) == (200, "0")
    assert health_pb2.Health.FromString(message).state == health_pb2.Health.State.Value(state)


async def test_a_token_that_is_none_is_refused_where_none_is_needed(edge: Edge) -> None:
    edge.backend.health = State.SERVING
    assert (await edge.rest("GET", f"{API}/version", headers={})).status_code == 200
    for path in ("health", "version"):
        assert (await edge.rest("GET", f"{API}/{path}", headers={"authorization": "Bearer x.y.z"})).status_code == 401
        scopeless = edge.bearer(roles=None, scope="")
        assert (await edge.rest("GET", f"{API}/{path}", headers=scopeless)).status_code == 200
