"""Whatever the edge refuses, to whomever: JSON in the one shape over HTTP/1 and 2, a status with details over gRPC."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, edge_with_backend, running_backend, running_edge
from tests.mesh.harness import World
from tests.mesh.raw_http import Http2, Reply, http1, read_http1
from tests.ports import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
SEARCH, COLLECTIONS = f"{API}/search", f"{API}/collections"
GET = "/ragweave.v1.CollectionService/GetCollection"
CREATE = "/ragweave.v1.CollectionService/CreateCollection"
SEARCH_METHOD = "/ragweave.v1.RetrievalService/Search"
ON_EVERY_ANSWER = {
    "x-api-version": "v1",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
    "server": "ragweave",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    limits = {"max_json_bytes": 100_000, "max_upload_bytes": 300_000, "headers_timeout_s": 1}
    async with edge_with_backend(tmp_path_factory.mktemp("edge"), **limits) as running:
        yield running


def held_to_the_shape(reply: Reply, status: int, code: int, reason: str) -> dict[str, Any]:
    assert not reply.reset
    assert reply.status == status, reply
    assert_on_every_answer(reply.headers)
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert set(body) == {"code", "message", "details"}
    assert body["code"] == code
    assert body["message"]
    info = body["details"][0]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert (info["reason"], info["domain"]) == (reason, "ragweave")
    return dict(body)


def assert_on_every_answer(headers: dict[str, str]) -> None:
    assert {name: headers.get(name) for name in ON_EVERY_ANSWER} == ON_EVERY_ANSWER
    assert headers["x-request-id"]
    assert not [name for name in headers if name.startswith("x-envoy-")]


TOKEN = object()
HTTP1: dict[str, tuple[str, list[Any], bytes, tuple[int, int, str]]] = {
    "not HTTP": ("\0\1\2", [], b"", (400, 3, "INVALID_ARGUMENT")),
    "HTTP/1.0": (f"GET {COLLECTIONS} HTTP/1.0", [TOKEN], b"", (426, 12, "UNSUPPORTED_HTTP_VERSION")),
    "no host": (f"GET {COLLECTIONS} HTTP/1.1", [TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "two hosts": (f"GET {COLLECTIONS} HTTP/1.1", ["host: a", "host: b", TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "unknown method": (f"FOO {COLLECTIONS} HTTP/1.1", ["host: e", TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "a tunnel": ("CONNECT e:80 HTTP/1.1", ["host: e:80", TOKEN], b"", (405, 12, "UNIMPLEMENTED")),
    "everything": ("OPTIONS * HTTP/1.1", ["host: e", TOKEN], b"", (404, 5, "NOT_FOUND")),
    "an upgrade": (
        f"GET {COLLECTIONS} HTTP/1.1",
        ["host: e", TOKEN, "connection: upgrade", "upgrade: websocket"],
        b"",
        (400, 3, "INVALID_ARGUMENT"),
    ),
    "a name with a space": (f"GET {COLLECTIONS} HTTP/1.1", ["host: e", "a b: c"], b"", (400, 3, "INVALID_ARGUMENT")),
    "a zero byte": (f"GET {COLLECTIONS} HTTP/1.1", ["host: e", "a: b\0c"], b"", (400, 3, "INVALID_ARGUMENT")),
    "an underscore": (f"GET {COLLECTIONS} HTTP/1.1", ["host: e", "a_b: c"], b"", (400, 3, "INVALID_ARGUMENT")),
    "headers too large": (
        f"GET {COLLECTIONS} HTTP/1.1",
        ["host: e", "a: " + "b" * 40_000],
        b"",
        (431, 3, "HEADERS_TOO_LARGE"),
    ),
    "too many headers": (
        f"GET {COLLECTIONS} HTTP/1.1",
        ["host: e", *(f"a-{n}: b" for n in range(120))],
        b"",
        (431, 3, "HEADERS_TOO_LARGE"),
    ),
    "length and chunks": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", TOKEN, "transfer-encoding: chunked", "content-length: 5"],
        b"0\r\n\r\n",
        (400, 3, "INVALID_ARGUMENT"),
    ),
    "two lengths": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", TOKEN, "content-length: 5", "content-length: 6"],
        b"abcdef",
        (400, 3, "INVALID_ARGUMENT"),
    ),
    "a negative length": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", TOKEN, "content-length: -5"],
        b"",
        (400, 3, "INVALID_ARGUMENT"),
    ),
    "an unknown transfer encoding": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", TOKEN, "transfer-encoding: gzip"],
        b"",
        (501, 12, "UNIMPLEMENTED"),
    ),
    "a bad chunk": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", TOKEN, "content-type: application/json", "transfer-encoding: chunked"],
        b"zz\r\n\r\n",
        (400, 3, "INVALID_ARGUMENT"),
    ),
    "an escaped slash": (f"GET {API}/..%2fx HTTP/1.1", ["host: e", TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "an escaped zero": (f"GET {COLLECTIONS}/%00 HTTP/1.1", ["host: e", TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "a fragment": (f"GET {COLLECTIONS}#x HTTP/1.1", ["host: e", TOKEN], b"", (400, 3, "INVALID_ARGUMENT")),
    "no token": (f"GET {COLLECTIONS} HTTP/1.1", ["host: e"], b"", (401, 16, "UNAUTHENTICATED")),
    "no such path": (f"GET {API}/nope HTTP/1.1", ["host: e", TOKEN], b"", (404, 5, "NOT_FOUND")),
    "another method": (f"PUT {COLLECTIONS} HTTP/1.1", ["host: e", TOKEN], b"", (405, 12, "UNIMPLEMENTED")),
    "another type": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", "content-type: text/xml", "content-length: 2"],
        b"{}",
        (415, 3, "UNSUPPORTED_MEDIA_TYPE"),
    ),
    "a declared body too large": (
        f"POST {SEARCH} HTTP/1.1",
        ["host: e", "content-type: application/json", "content-length: 100001"],
        b"",
        (413, 3, "REQUEST_TOO_LARGE"),
    ),
    "a later version": ("GET /api/v2/rag/search HTTP/1.1", ["host: e"], b"", (501, 12, "UNIMPLEMENTED")),
}


@pytest.mark.parametrize("case", HTTP1)
async def test_over_http1_every_refusal_has_the_one_shape(edge: Edge, case: str) -> None:
    line, headers, body, expected = HTTP1[case]
    bearer = f"authorization: {edge.bearer()['authorization']}"
    head = "\r\n".join([line, *(bearer if each is TOKEN else each for each in headers), "", ""])
    held_to_the_shape(await http1(edge.settings.port, head.encode("latin1") + body), *expected)


async def test_headers_that_do_not_arrive_in_time_are_refused_in_the_one_shape(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    writer.write(f"GET {COLLECTIONS} HTTP/1.1\r\nhost: e\r\n".encode())
    async with asyncio.timeout(30):
        held_to_the_shape(await read_http1(reader), 408, 4, "DEADLINE_EXCEEDED")
    writer.close()


def headers2(
    edge: Edge, *more: tuple[str, str], path: str = COLLECTIONS, method: str = "GET", token: bool = True
) -> Any:
    sent = [(":method", method), (":scheme", "http"), (":authority", "e"), (":path", path)]
    return [*sent, *([("authorization", edge.bearer()["authorization"])] if token else []), *more]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"path": f"{API}/..%2fx"}, (400, 3, "INVALID_ARGUMENT")),
        ({"token": False}, (401, 16, "UNAUTHENTICATED")),
        ({"path": f"{API}/nope"}, (404, 5, "NOT_FOUND")),
        ({"method": "OPTIONS", "path": "*"}, (404, 5, "NOT_FOUND")),
        ({"method": "FOO"}, (405, 12, "UNIMPLEMENTED")),
        ({"path": "/api/v2"}, (501, 12, "UNIMPLEMENTED")),
    ],
    ids=str,
)
async def test_over_http2_every_refusal_has_the_one_shape(
    edge: Edge, sent: dict[str, Any], expected: tuple[int, int, str]
) -> None:
    async with Http2.to(edge.settings.port) as connection:
        held_to_the_shape(await connection.ask(headers2(edge, **sent)), *expected)


@pytest.mark.parametrize(
    "broken",
    [
        ("a_b", "c"), ("A-B", "c"), ("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"),
        ("a", "b\0c"), ("a", "b\r\nc: d"), ("a", "b" * 40_000), (":path", "/x"),
    ],
    ids=lambda broken: repr(broken)[:30],
)  # fmt: skip
async def test_http2_that_breaks_its_own_rules_is_reset_and_reaches_nobody(edge: Edge, broken: tuple[str, str]) -> None:
    before = len(edge.backend.seen.paths)
    async with Http2.to(edge.settings.port) as connection:
        reply = await connection.ask(headers2(edge, broken))
    assert reply.reset
    assert len(edge.backend.seen.paths) == before


GRPC: dict[str, tuple[dict[str, Any], int, str]] = {
    "no token": ({"token": False}, 16, "UNAUTHENTICATED"),
    "a reader": (
        {"path": CREATE, "roles": ["reader"]},
        7,
        "PERMISSION_DENIED",
    ),
    "no such method": ({"path": "/ragweave.v1.CollectionService/Nothing"}, 12, "UNIMPLEMENTED"),
    "no such service": ({"path": "/ragweave.v1.Nothing/Nothing"}, 12, "UNIMPLEMENTED"),
    "a service of the mesh": ({"path": "/ragweave.internal.v1.IndexService/DropIndex"}, 12, "UNIMPLEMENTED"),
    "a path of REST": ({"path": SEARCH}, 12, "UNIMPLEMENTED"),
    "an earlier path of REST": ({"path": "/api/rag/search"}, 12, "UNIMPLEMENTED"),
    "a later path of REST": ({"path": "/api/v2/rag/search"}, 12, "UNIMPLEMENTED"),
    "an escaped slash": ({"path": "/ragweave.v1.CollectionService%2fGetCollection"}, 3, "INVALID_ARGUMENT"),
    "a query": ({"path": f"{GET}?a=b"}, 3, "INVALID_ARGUMENT"),
    "a token in the query": ({"path": f"{GET}?access_token=a"}, 16, "UNAUTHENTICATED"),
    "another verb": ({"verb": "PUT"}, 12, "UNIMPLEMENTED"),
    "another encoding": ({"headers": {"grpc-encoding": "snappy"}}, 12, "UNIMPLEMENTED"),
    "a body too large": ({"body": b"\0" + (300_000).to_bytes(4, "big") + b"x" * 300_000}, 3, "REQUEST_TOO_LARGE"),
}


@pytest.mark.parametrize("kind", ["application/grpc", "application/grpc-web+proto", "application/grpc-web-text"])
@pytest.mark.parametrize("case", GRPC)
async def test_a_grpc_caller_gets_the_right_status_with_its_reason(edge: Edge, case: str, kind: str) -> None:
    sent, code, reason = GRPC[case]
    token = edge.bearer(roles=sent.get("roles", ["admin"])) if sent.get("token", True) else {}
    body = sent.get("body", b"\0\0\0\0\0")
    response = await edge.http.request(
        sent.get("verb", "POST"),
        sent.get("path", GET),
        headers={**token, "content-type": kind, **sent.get("headers", {})},
        content=base64.b64encode(body) if kind.endswith("text") else body,
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(kind.removesuffix("+proto").removesuffix("-text"))
    assert response.headers["grpc-status"] == str(code), response.headers
    assert_on_every_answer(dict(response.headers))
    status, info = Status.FromString(base64.b64decode(response.headers["grpc-status-details-bin"])), ErrorInfo()
    assert (status.code, status.message) == (code, response.headers["grpc-message"])
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain) == (reason, "ragweave")


async def test_grpc_web_refused_before_its_filter_still_gets_trailers_in_its_own_form(edge: Edge) -> None:
    path = "/ragweave.v1.CollectionService%2fGetCollection"
    for kind, read in (("application/grpc-web+proto", bytes), ("application/grpc-web-text+proto", base64.b64decode)):
        response = await edge.http.post(path, headers={"content-type": kind})
        assert response.headers["content-type"] == kind
        frame = read(response.content)
        assert (frame[0], int.from_bytes(frame[1:5], "big")) == (0x80, len(frame) - 5)
        assert dict(line.split(":", 1) for line in frame[5:].decode().splitlines())["grpc-status"] == "3"


@asynccontextmanager
async def _before(world: World, folder: Any, backend: Backend, port: int) -> AsyncIterator[Edge]:
    """An edge whose retrieval is at `port`."""
    async with running_backend(world, backend) as steady:
        others = {f"{owner}_endpoints": (world.target(steady),) for owner in {*OWNERS.values()} - {"retrieval"}}
        async with running_edge(
            world, folder, backend, retrieval_endpoints=(world.target(port),), waits_for=("collections",), **others
        ) as edge:
            yield edge


async def test_a_service_that_is_away_is_unavailable_to_each_caller(tmp_path_factory: pytest.TempPathFactory) -> None:
    world = World.in_folder(tmp_path_factory.mktemp("world"))
    async with _before(world, tmp_path_factory.mktemp("edge"), Backend(), free_port()) as edge:
        rest = await edge.rest("POST", SEARCH, {"query": "q"})
        assert (rest.status_code, rest.json()["code"], rest.headers["retry-after"]) == (503, 14, "1")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge.channel.unary_unary(SEARCH_METHOD)(b"")
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        sent = {**edge.bearer(), "content-type": "application/grpc-web+proto"}
        web = await edge.http.post(SEARCH_METHOD, headers=sent, content=b"\0" * 5)
        assert (web.headers["grpc-status"], web.headers["retry-after"]) == ("14", "1")
        assert_on_every_answer(dict(web.headers))


async def test_an_edge_that_is_full_takes_no_more_connections_and_says_so_to_its_operator(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    async with edge_with_backend(tmp_path_factory.mktemp("edge"), max_connections=2) as edge:
        held = [await asyncio.open_connection("127.0.0.1", edge.settings.port) for _ in range(6)]
        try:
            async with asyncio.timeout(30):
                done, _ = await asyncio.wait(
                    [asyncio.create_task(reader.read()) for reader, _ in held], return_when=asyncio.FIRST_COMPLETED
                )
                assert {each.result() if not each.exception() else b"" for each in done} == {b""}
            stats = await edge.stats()
            assert stats["listener.127.0.0.1_%d.downstream_cx_active" % edge.settings.port] <= 2  # noqa: UP031
        finally:
            for _, writer in held:
                writer.close()
