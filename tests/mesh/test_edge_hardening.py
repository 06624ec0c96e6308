"""What hostile clients try: smuggling, spoofed identities, endless bodies, floods, calls that look like failures."""

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from h2.events import PingAckReceived, RemoteSettingsChanged

from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, edge_with_backend, running_backend, running_edge
from tests.mesh.harness import World
from tests.mesh.raw_http import Http2, http1, read_http1

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
SEARCH, COLLECTIONS = f"{API}/search", f"{API}/collections"
UPLOAD = f"{COLLECTIONS}/c/documents:upload"
SEARCH_METHOD = "/ragweave.v1.RetrievalService/Search"
EMPTY = b"\0\0\0\0\0"
MAX_UPLOAD = 2 * 2**20


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    async with edge_with_backend(tmp_path_factory.mktemp("edge"), max_upload_bytes=MAX_UPLOAD) as running:
        yield running


def bearer(edge: Edge, **claims: Any) -> str:
    return edge.bearer(**claims)["authorization"]


# Smuggling ------------------------------------------------------------------------------------------------------------


SMUGGLED = f"GET {COLLECTIONS}/smuggled HTTP/1.1\r\nhost: e\r\n\r\n"


FRAMINGS = (
    f"transfer-encoding: chunked\r\ncontent-length: {len(SMUGGLED) + 5}",
    f"content-length: {len(SMUGGLED) + 5}\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\ncontent-length: 5",
    "transfer-encoding: identity, chunked\r\ncontent-length: 5",
    "transfer-encoding : chunked\r\ncontent-length: 5",
    "transfer-encoding: \x0bchunked\r\ncontent-length: 5",
    "content-length: 5\r\ncontent-length: 0",
    "content-length: +5",
    "content-length: 0x5",
    "content-length: 5 5",
)


async def test_a_body_of_two_lengths_is_refused_and_nothing_behind_it_is_served(edge: Edge) -> None:
    async def smuggle(framing: str) -> None:
        head = f"POST {SEARCH} HTTP/1.1\r\nhost: e\r\nauthorization: {bearer(edge)}\r\n{framing}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
        writer.write(head.encode("latin1") + b"0\r\n\r\n" + SMUGGLED.encode())
        first = await read_http1(reader)
        assert first.reset or first.status in (400, 501), framing
        # Envoy lets a refused connection end by itself for a second; whatever else was sent is nobody's request.
        assert await reader.read() == b"", framing
        writer.close()

    before = len(edge.backend.seen.paths)
    async with asyncio.timeout(30):
        await asyncio.gather(*map(smuggle, FRAMINGS))
    assert len(edge.backend.seen.paths) == before


async def test_two_requests_on_one_connection_are_two_and_neither_lends_the_other_its_token(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    first = f"GET {COLLECTIONS}/a HTTP/1.1\r\nhost: e\r\nauthorization: {bearer(edge)}\r\n\r\n"
    writer.write((first + f"GET {COLLECTIONS}/a HTTP/1.1\r\nhost: e\r\n\r\n").encode())
    async with asyncio.timeout(30):
        assert [(await read_http1(reader)).status for _ in range(2)] == [200, 401]
    writer.close()


# Identity -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [COLLECTIONS, SEARCH])
async def test_two_tokens_are_none(edge: Edge, path: str) -> None:
    """Two readers of one request might each pick another."""
    ann, bob = bearer(edge), bearer(edge, sub="bob", roles=["reader"])
    for pair in ([ann, bob], [bob, ann], [ann, ann], [ann, "Basic YTpi"], ["Basic YTpi", ann]):
        verb = "POST" if path == SEARCH else "GET"
        headers = [("authorization", each) for each in pair]
        response = await edge.http.request(verb, path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, 16)
        joined = await edge.http.request(verb, path, headers={"authorization": ", ".join(pair)})
        assert joined.status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_known_in_its_usual_spellings(edge: Edge, scheme: str) -> None:
    token = edge.world.token(roles=["admin"], sub="spelled")
    for verb, path in (("GET", f"{COLLECTIONS}/a"), ("POST", SEARCH)):
        answer = await edge.http.request(verb, path, headers={"authorization": f"{scheme} {token}"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    "sent",
    [
        "bEARER {}",
        "Bearer  {}",
        "Bearer\t{}",
        "{}",
        "Token {}",
        "Basic Bearer {}",
        "Bearer {} x",
        "Bearer",
        "",
        "Bearer {},",
    ],
)
async def test_anything_else_is_no_token_even_where_none_is_needed(edge: Edge, sent: str) -> None:
    header = sent.format(edge.world.token(roles=["admin"]))
    for verb, path in (("GET", f"{COLLECTIONS}/a"), ("POST", SEARCH)):
        lines = [f"{verb} {path} HTTP/1.1", "host: e", f"authorization: {header}", "content-length: 0", "", ""]
        reply = await http1(edge.settings.port, "\r\n".join(lines).encode())
        assert (reply.status, reply.json()["code"]) == (401, 16), header


@pytest.mark.parametrize(
    "name", ["access_token", "token", "jwt", "id_token", "api_key", "Authorization", "ACCESS_TOKEN"]
)
async def test_a_token_in_the_query_is_refused_everywhere_and_opens_nothing(edge: Edge, name: str) -> None:
    token = edge.world.token(roles=["admin"])
    before = len(edge.backend.seen.paths)
    for headers in ({}, edge.bearer()):
        for verb, path in (("GET", COLLECTIONS), ("POST", SEARCH), ("GET", "/api/rag/collections")):
            answer = await edge.rest(verb, f"{path}?{name}={token}", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, 16)
            assert token not in answer.text
        for path in (SEARCH_METHOD, "/ragweave.v1.CollectionService/ListCollections"):
            sent = {**headers, "content-type": "application/grpc"}
            answer = await edge.http.post(f"{path}?{name}={token}", headers=sent, content=EMPTY)
            assert answer.headers["grpc-status"] == "16"
    assert len(edge.backend.seen.paths) == before


async def test_nobody_can_say_who_or_where_they_are_by_a_header(edge: Edge) -> None:
    said = {
        "x-ragweave-tenant": "other", "x-ragweave-subject": "root", "x-envoy-original-path": "/x",
        "x-envoy-internal": "true", "x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https",
        "x-forwarded-host": "evil", "x-forwarded-port": "1", "x-forwarded-client-cert": "By=x",
        "forwarded": "for=1.2.3.4", "x-real-ip": "203.0.113.9", "true-client-ip": "203.0.113.9",
        "x-original-url": "/admin", "x-rewrite-url": "/admin",
        "x-http-method-override": "DELETE", "x-http-method": "DELETE", "x-method-override": "DELETE",
    }  # fmt: skip
    assert (await edge.rest("GET", f"{COLLECTIONS}/a", headers={**edge.bearer(), **said})).status_code == 200
    arrived = edge.backend.seen.metadata[-1]
    assert edge.backend.seen.paths[-1].endswith("/GetCollection")
    for name, value in said.items():
        assert arrived.get(name) != value, name
    assert "203.0.113.9" not in str(arrived)


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"scope": "collections.read"}, 200),
        ({"scope": ["collections.read"]}, 200),
        ({"scope": ["jobs.read", "collections.read"]}, 200),
        ({"scope": ["jobs.read collections.read"]}, 403),
        ({"scope": "collections.readx xcollections.read"}, 403),
        ({"scope": "COLLECTIONS.READ"}, 403),
        ({"scope": "collections"}, 403),
        ({"scope": "*"}, 403),
        ({"scope": {"collections.read": True}}, 403),
        ({"scope": None, "scp": "collections.read"}, 403),
        ({"roles": ["Admin"]}, 403),
        ({"roles": ["admin "]}, 403),
        ({"roles": "admin"}, 403),
        ({"roles": {"admin": 1}}, 403),
        ({"role": "admin"}, 403),
        ({"roles": []}, 403),
    ],
    ids=str,
)
async def test_scopes_and_roles_mean_what_they_say_and_nothing_else(
    edge: Edge, claims: dict[str, Any], status: int
) -> None:
    answer = await edge.rest("GET", f"{COLLECTIONS}/a", headers=edge.bearer(**{"roles": None, **claims}))
    assert answer.status_code == status, answer.text


@pytest.mark.parametrize(
    "kind", ["application/grpcx", "application/grpc-webx", "application/grpc;x", "Application/gRPC"]
)
async def test_a_type_that_only_looks_like_grpcs_does_not_escape_the_check_of_bodies(edge: Edge, kind: str) -> None:
    answer = await edge.rest("POST", SEARCH, b'{"querry": "q"}', headers={**edge.bearer(), "content-type": kind})
    assert answer.status_code == 415, answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/ragweave.v1.collectionservice/ListCollections", "/ragweave.v1.CollectionService/listcollections",
        "/ragweave.v1.CollectionService/ListCollections/", "/ragweave.v1.CollectionService/ListCollections/x",
        "/x/../ragweave.internal.v1.IndexService/DropIndex", "/grpc.health.v1.Health/../x/y",
        "/grpc.health.v1.Health/Check/x", "/ragweave.internal.v1.RegistryService/WatchCollections",
    ],
)  # fmt: skip
async def test_a_method_has_one_name(edge: Edge, path: str) -> None:
    before = len(edge.backend.seen.paths)
    async with Http2.to(edge.settings.port) as connection:
        sent = [(":method", "POST"), (":scheme", "http"), (":authority", "e"), (":path", path)]
        more = [("authorization", bearer(edge)), ("content-type", "application/grpc"), ("te", "trailers")]
        reply = await connection.ask([*sent, *more], EMPTY)
    assert reply.headers["grpc-status"] == "12"
    assert len(edge.backend.seen.paths) == before


async def test_a_url_that_names_another_host_is_judged_like_any(edge: Edge) -> None:
    head = f"GET http://evil.example{COLLECTIONS}/a HTTP/1.1\r\nhost: e\r\n"
    assert (await http1(edge.settings.port, f"{head}\r\n".encode())).status == 401
    assert (await http1(edge.settings.port, f"{head}authorization: {bearer(edge)}\r\n\r\n".encode())).status == 200


# Bodies and floods ----------------------------------------------------------------------------------------------------


async def test_an_upload_of_no_declared_length_ends_at_the_limit(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    head = f"POST {UPLOAD} HTTP/1.1\r\nhost: e\r\nauthorization: {bearer(edge)}\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head.encode())

    async def send_without_end() -> None:
        while True:
            writer.write(b"10000\r\n" + b"z" * 0x10000 + b"\r\n")
            await writer.drain()

    sending = asyncio.create_task(send_without_end())
    try:
        async with asyncio.timeout(60):
            reply = await read_http1(reader)
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
    assert (reply.status, reply.json()["code"]) == (413, 3)
    assert reply.json()["details"][0]["reason"] == "REQUEST_TOO_LARGE"
    assert str(MAX_UPLOAD) in reply.json()["message"]


async def test_an_upload_just_within_the_limit_passes_declared_or_not(edge: Edge) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(MAX_UPLOAD // 2**16):
            yield b"z" * 2**16

    for content in (b"z" * MAX_UPLOAD, parts()):
        answer = await edge.http.post(UPLOAD, content=content, headers=edge.bearer())
        assert answer.json()["document"]["sizeBytes"] == str(MAX_UPLOAD)


async def test_one_connection_has_a_hundred_streams_and_no_more(edge: Edge) -> None:
    async with Http2.to(edge.settings.port) as connection:
        await connection.heard(RemoteSettingsChanged)
        assert connection.wire.remote_settings.max_concurrent_streams == 100
        sent = [(":method", "POST"), (":scheme", "http"), (":authority", "e"), (":path", SEARCH)]
        more = [("authorization", bearer(edge)), ("content-type", "application/json")]
        connection.wire.remote_settings.max_concurrent_streams = 10_000  # so that this side does not count
        connection.wire.remote_settings.acknowledge()

        def begin() -> int:
            return connection.send([*sent, *more], b'{"query"', end=False)

        held = [begin() for _ in range(100)]
        connection.wire.ping(b"a round!")
        await connection.heard(PingAckReceived)
        assert not any(connection.replies[each].over for each in held)
        [beyond] = await connection.answered(begin())
        assert beyond.reset


async def test_a_client_that_opens_streams_only_to_reset_them_loses_its_connection_alone(edge: Edge) -> None:
    async with Http2.to(edge.settings.port) as connection:
        sent = [(":method", "GET"), (":scheme", "http"), (":authority", "e"), (":path", f"{COLLECTIONS}/slow")]
        async with asyncio.timeout(60):
            while not connection.terminated:
                for _ in range(50):
                    connection.wire.reset_stream(connection.send([*sent, ("authorization", bearer(edge))]), 8)
                await connection._step()
    assert (await edge.stats())["http.edge.downstream_rq_too_many_premature_resets"] >= 1
    assert (await edge.rest("GET", f"{COLLECTIONS}/a")).status_code == 200


BODIES = {
    "nothing": b"",
    "a flag nobody set": b"\1\0\0\0\2ab",
    "a message larger than any": b"\0\x7f\xff\xff\xff" + b"a" * 100,
    "not protobuf": b"\0\0\0\0\2\xff\xff",
    "two messages": EMPTY * 2,
    "noise": b"\xff" * 50,
}
SENT: dict[str, dict[str, str]] = {
    "no te": {},
    "another te": {"te": "gzip"},
    "metadata that is no base64": {"a-bin": "!!!"},
    "an unknown encoding": {"grpc-encoding": "snappy"},
    "a bad timeout": {"grpc-timeout": "soon"},
    "a timeout of nothing": {"grpc-timeout": "0n"},
    "many kibibytes of metadata": {"a": "b" * 20_000},
    "a subtype": {"content-type": "application/grpc+json"},
    "a status": {"grpc-status": "0", "grpc-message": "x"},
}


async def test_malformed_calls_and_unknown_ones_eject_no_backend(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With two replicas one could be ejected; a caller without any token could do it by a missing `te`, once."""
    world, backend = World.in_folder(tmp_path_factory.mktemp("world")), Backend()
    async with running_backend(world, backend) as first, running_backend(world, backend) as second:
        everywhere = {f"{each}_endpoints": tuple(map(world.target, (first, second))) for each in {*OWNERS.values()}}
        async with running_edge(world, tmp_path_factory.mktemp("edge"), backend, **everywhere) as edge:
            calls = []
            for kind in ("application/grpc", "application/grpc-web+proto"):
                for body in BODIES.values():
                    calls += [{"content": body, "headers": {"content-type": kind, "grpc-timeout": "300m"}}] * 8
                for headers in SENT.values():
                    calls += [{"content": EMPTY, "headers": {"content-type": kind, **headers}}] * 8
            for start in range(0, len(calls), 40):
                await asyncio.gather(*(edge.http.post(SEARCH_METHOD, **each) for each in calls[start : start + 40]))
            stats = await edge.stats()
            ejections = {name: value for name, value in stats.items() if ".outlier_detection.ejections_" in name}
            enforced = {name: value for name, value in ejections.items() if "enforced" in name or "active" in name}
            assert enforced and not any(enforced.values()), enforced
            gateway = [value for name, value in ejections.items() if "detected_consecutive_gateway_failure" in name]
            assert not any(gateway)
            answer = await edge.http.post(
                SEARCH_METHOD, content=b"\0" + struct.pack(">I", 0), headers={"content-type": "application/grpc"}
            )
            assert answer.status_code == 200
            assert answer.headers.get("grpc-status", "0") == "0", answer.headers


@pytest.mark.parametrize(
    "sent",
    [
        {"grpc-timeout": "soon"}, {"grpc-timeout": "-1S"}, {"grpc-timeout": "123456789S"}, {"grpc-encoding": "snappy"},
        {"a-bin": "!!!"}, {"grpc-trace-bin": "!"}, {"lb-cost-bin": "A"}, {"grpc-previous-rpc-attempts": "x"},
        {"grpc-retry-pushback-ms": "x"}, {"grpc-status": "x"}, {"lb-token": "x"}, {"x-tracing": b"\xff"},
    ],
    ids=str,
)  # fmt: skip
async def test_what_one_caller_sends_does_not_spoil_a_connection_for_others(edge: Edge, sent: dict[str, Any]) -> None:
    """Callers share the connections to a service, and gRPC servers remember headers they could not parse."""
    for kind in ("application/grpc", "application/grpc-web+proto", "application/json"):
        path, body = (SEARCH, b"{}") if kind.endswith("json") else (SEARCH_METHOD, EMPTY)
        for _ in range(3):
            await edge.http.post(path, content=body, headers={"content-type": kind, **sent})
        for _ in range(10):
            answer = await edge.http.post(SEARCH_METHOD, content=EMPTY, headers={"content-type": "application/grpc"})
            assert answer.headers.get("grpc-status", "0") == "0", answer.headers
            assert (await edge.rest("POST", SEARCH, {"query": "q"})).status_code == 200


@pytest.mark.parametrize("path", [SEARCH, "/api/rag/search"])
@pytest.mark.parametrize("timeout", ["soon", "-1S", "1", "1s", "123456789S", "1.5S", ""])
async def test_a_timeout_that_is_none_is_refused_by_name(edge: Edge, path: str, timeout: str) -> None:
    answer = await edge.rest("POST", path, {"query": "q"}, headers={**edge.bearer(), "grpc-timeout": timeout})
    assert (answer.status_code, answer.json()["code"]) == (400, 3)
    assert answer.json()["message"].startswith("grpc-timeout: expected ")


@pytest.mark.parametrize("path", [SEARCH, "/api/rag/search"])
async def test_a_rest_caller_may_say_a_timeout_and_has_no_encoding_of_grpcs(edge: Edge, path: str) -> None:
    for more in ({"grpc-timeout": "4S"}, {"grpc-encoding": "snappy"}, {"grpc-timeout": "4S", "grpc-encoding": "x"}):
        for token in ({}, edge.bearer()):
            answer = await edge.rest("POST", path, {"query": "q"}, headers={**token, **more})
            assert answer.status_code == 200, answer.text
            assert edge.backend.seen.metadata[-1].get("grpc-encoding") is None
        refused = await edge.rest("POST", path, {"querry": "q"}, headers={**edge.bearer(), **more})
        assert refused.status_code == 400
    assert (await edge.rest("GET", COLLECTIONS, headers={"grpc-encoding": "snappy"})).status_code == 401


async def test_idle_and_slow_connections_hold_nobody_up(edge: Edge) -> None:
    held = [await asyncio.open_connection("127.0.0.1", edge.settings.port) for _ in range(200)]
    try:
        for _, writer in held:
            writer.write(f"POST {SEARCH} HTTP/1.1\r\nhost: e\r\ncontent-length: 100\r\n".encode())
        async with httpx.AsyncClient(base_url=edge.http.base_url, timeout=30) as fresh:
            assert (await fresh.get(f"{COLLECTIONS}/a", headers=edge.bearer())).status_code == 200
    finally:
        for _, writer in held:
            writer.close()
