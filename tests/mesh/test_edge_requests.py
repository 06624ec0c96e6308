"""What the edge refuses, and how it says so: one shape for REST, plain statuses for gRPC."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import OctKey

from ragweave import contract
from ragweave.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    retrieval_service_pb2_grpc,
    search_pb2,
)
from services.mesh.edge import OWNERS
from tests.mesh.edge_stack import Backend, Edge, running_backend, running_edge
from tests.mesh.harness import World, new_key

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1/rag"
SEARCH = f"{API}/search"
COLLECTIONS = f"{API}/collections"
# Small enough to send, larger than Envoy's own buffers.
MAX_JSON, MAX_UPLOAD = 3 * 2**20, 24 * 2**20
NESTED = b'{"allOf":[' * 80 + b"{}" + b"]}" * 80


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    world, backend = World.in_folder(tmp_path_factory.mktemp("world")), Backend()
    async with running_backend(world, backend) as port:
        everywhere = {f"{owner}_endpoints": (world.target(port),) for owner in set(OWNERS.values())}
        limits = {"max_json_bytes": MAX_JSON, "max_upload_bytes": MAX_UPLOAD}
        folder = tmp_path_factory.mktemp("edge")
        async with running_edge(world, folder, backend, **everywhere, **limits) as running:
            yield running


def refusal(response: httpx.Response, status: int, code: int) -> dict[str, Any]:
    """The body of a refusal in the one shape."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-api-version"] == "v1"
    body = response.json()
    assert set(body) == {"code", "message", "details"}
    assert body["code"] == code
    assert body["message"]
    assert body["details"][0]["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert body["details"][0]["domain"] == "ragweave"
    assert body["details"][0]["reason"]
    assert isinstance(body["details"][0]["metadata"], dict)
    return dict(body)


FIELDS: dict[str, tuple[Any, str, str]] = {
    "unknown": ({"querry": "x"}, "querry", "unknown field; did you mean query?"),
    "unknown, in other case": ({"topk": 1}, "topk", "unknown field; did you mean topK?"),
    "unknown, like nothing": ({"colour": 1}, "colour", "unknown field"),
    "unknown, written with escapes": (b'{"\\u0071uerx": 1}', "querx", "unknown field; did you mean query?"),
    "unknown, nested": ({"fusion": {"rrf": {"kk": 1}}}, "fusion.rrf.kk", "unknown field; did you mean k?"),
    "unknown, in a list of a message that holds itself": (
        {"typedFilter": {"allOf": [{}, {"anyOf": [{"comparison": []}]}]}},
        "typedFilter.allOf[1].anyOf[0].comparison",
        "unknown field; did you mean comparisons?",
    ),
    "text for a number": ({"topK": "many"}, "topK", "expected a whole number, got a string"),
    "a fraction for a whole number": ({"topK": 1.5}, "topK", "expected a whole number"),
    "a number out of range": ({"topK": 99999999999}, "topK", "the number is out of range"),
    "a number for text": ({"query": 5}, "query", "expected a string, got a number"),
    "an object for text": ({"query": {"a": 1}}, "query", "expected a string, got an object"),
    "a list for text": ({"query": ["a"]}, "query", "expected a string, got a list"),
    "text for a list": ({"collections": "a"}, "collections", "expected a list, got a string"),
    "text for an object": ({"fusion": "rrf"}, "fusion", "expected an object, got a string"),
    "text for a boolean": ({"highlight": "yes"}, "highlight", "expected true or false, got a string"),
    "a boolean for a number": ({"minScore": True}, "minScore", "expected a number, got a boolean"),
    "a number for a mask": ({"readMask": 5}, "readMask", 'expected field names such as "title,metadata", got a number'),
    "text in a vector": ({"vector": [1, 2, "x"]}, "vector[2]", "expected a number, got a string"),
    "null in a vector": ({"vector": [1, None]}, "vector[1]", "null in a list; expected a number"),
    "a bad enum": ({"mode": "hybrid"}, "mode", '"hybrid" is not one of DENSE, HYBRID, SPARSE; did you mean HYBRID?'),
    "a field twice": ({"topK": 1, "top_k": 2}, "top_k", "given twice"),
    "two of a oneof": (
        {"fusion": {"rrf": {}, "dbsf": {}}},
        "fusion.dbsf",
        "given together with rrf; only one of them may be",
    ),
    "too deep": (b'{"typedFilter":' + NESTED + b"}", "typedFilter" + ".allOf[0]" * 31 + ".allOf", "nested too deeply"),
}


@pytest.mark.parametrize("case", FIELDS)
async def test_a_body_that_does_not_fit_is_refused_naming_the_field(edge: Edge, case: str) -> None:
    sent, field, problem = FIELDS[case]
    body = refusal(await edge.rest("POST", SEARCH, sent), 400, 3)
    assert body["message"] == f"{field}: {problem}"
    assert body["details"][0]["reason"] == "INVALID_ARGUMENT"
    assert body["details"][1] == {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": field, "description": problem}],
    }


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b'{"query": "a"', "an unexpected end at byte 14"),
        (b"{'query': 'a'}", "no quoted name at byte 2"),
        (b"{query: 1}", "no quoted name at byte 2"),
        (b'{"query": "a",}', "no quoted name at byte 15"),
        (b'{"query" "a"}', "no colon after a name at byte 10"),
        (b'{"query": "a" "topK": 1}', "an unexpected character at byte 15"),
        (b'{"query": "a"} x', "something after the object at byte 16"),
        (b'{"query": "a', "a string that does not end at byte 11"),
        (b'{"query": "a\nb"}', "a control character in a string at byte 13"),
        (b'{"query": "\\x"}', "a bad escape at byte 12"),
        (b'{"query": "\\u00g0"}', "a bad \\u escape at byte 12"),
        (b'{"query": "\\ud800"}', "half a surrogate pair at byte 12"),
        (b'{"query": "\xff"}', "not UTF-8 at byte 12"),
        (b'{"query": "\xc0\xaf"}', "not UTF-8 at byte 12"),
        (b'{"query": "\xed\xa0\x80"}', "not UTF-8 at byte 12"),
        (b'{"topK": 01}', "a bad number at byte 10"),
        (b'{"topK": 1.}', "a bad number at byte 10"),
        (b'{"topK": NaN}', "an unexpected character at byte 10"),
        (b'{"highlight": tru}', "an unexpected character at byte 15"),
        (b"[]", "no object at byte 1"),
        (b"nonsense", "no object at byte 1"),
        (b"null", "no object at byte 1"),
    ],
)
async def test_malformed_json_is_refused_with_its_place(edge: Edge, sent: bytes, problem: str) -> None:
    body = refusal(await edge.rest("POST", SEARCH, sent), 400, 3)
    assert body["message"] == f"the body is not JSON: {problem}"


@pytest.mark.parametrize(
    "sent",
    [
        {"query": "q", "topK": 3, "mode": None},
        b' \r\n\t{ "query" : "q" , "topK" : 1e1 , "vector" : [ ] } \n',
        b'{"qu\\u0065ry": "\\ud83d\\ude00 \\"\\/\\n", "minScore": -0.5E-3}',
        '{"query": "Ä \U0001f600 中", "readMask": "text,score"}'.encode(),
        {"query": "q", "vector": [1, 2.5, "3", -1e-3], "collections": ["a", "b"]},
        {"query": "q", "mode": 1, "fusion": {"rrf": {"k": "60"}}},
        {
            "typedFilter": {
                "comparisons": [{"field": "a", "operator": "EQUAL", "value": {"any": [1, None, {"x": "y"}]}}]
            }
        },
        {"typed_filter": {"none_of": [{"all_of": []}]}, "cache_control": "BYPASS"},
        {},
    ],
    ids=range(9),
)
async def test_whatever_proto_json_allows_passes(edge: Edge, sent: Any) -> None:
    response = await edge.rest("POST", SEARCH, sent)
    assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    "sent",
    [
        {"topK": "1" * 2_000_000 + "x"},
        {"minScore": "1" * 2_000_000 + "x"},
        {"x" * 2_000_000: 1},
        {"mode": "x" * 2_000_000},
        {"typedFilter": {"allOf": [{"y" * 100_000: 1}] * 20}},
        b'{"query": "' + b"\\" * 1_000_001 + b'"}',
        b"[" * 2_000_000,
        b'{"vector":' + b"[" * 2_000_000,
    ],
    ids=range(8),
)
async def test_hostile_bodies_are_refused_at_once_in_few_words(edge: Edge, sent: Any) -> None:
    body = refusal(await edge.rest("POST", SEARCH, sent, timeout=5), 400, 3)
    assert len(body["message"]) < 500


async def test_long_paths_and_parameters_are_not_repeated_whole(edge: Edge) -> None:
    long = "x" * 20_000
    for path in (f"{API}/{long}", f"{COLLECTIONS}?{long}=1", f"{COLLECTIONS}?pageSize={'1' * 20_000}x"):
        response = await edge.rest("GET", path, timeout=5)
        assert response.status_code in (400, 404)
        assert len(response.json()["message"]) < 500


async def test_maps_and_free_json_take_any_names_but_keep_their_types(edge: Edge) -> None:
    free = {"documentId": "d", "text": "t", "document": {"metadata": {"Any thing": [1, {"x": None}], "topk": "x"}}}
    made = await edge.rest("POST", f"{COLLECTIONS}/c/documents", free)
    assert made.json()["document"]["metadata"] == {"Any thing": [1, {"x": None}], "topk": "x"}
    assert (await edge.rest("POST", COLLECTIONS, {"labels": {"any-name": "x"}})).status_code == 200
    wrong = refusal(await edge.rest("POST", COLLECTIONS, {"labels": {"any-name": 3}}), 400, 3)
    assert wrong["message"] == "labels.any-name: expected a string, got a number"


async def test_a_body_that_is_one_field_is_not_wrapped_in_its_name(edge: Edge) -> None:
    body = refusal(await edge.rest("POST", f"{COLLECTIONS}?collectionId=x", {"collection": {}}), 400, 3)
    assert body["message"] == "collection: unknown field"


@pytest.mark.parametrize(
    ("verb", "path", "message"),
    [
        ("GET", "/collections?pageSiz=1", "pageSiz: unknown query parameter; did you mean pageSize?"),
        ("GET", "/collections?pageSize=many", "pageSize: expected a whole number"),
        ("GET", "/collections?pageSize=99999999999", "pageSize: the number is out of range"),
        ("GET", "/collections?pageSize=1&page_size=2", "page_size: given twice"),
        (
            "GET",
            "/usage?startTime=2026-11-21",
            'startTime: expected a time such as "2026-01-31T12:00:00Z", found "2026-11-21"',
        ),
        (
            "GET",  # a plus that is not escaped is a space
            "/usage?startTime=2026-11-21T00:00:00+02:00",
            'startTime: expected a time such as "2026-01-31T12:00:00Z", found "2026-11-21T00:00:00 02:00"',
        ),
        ("GET", "/collections?filter=%zz", "%zz: a bad percent escape"),
        ("GET", "/collections?filter=%ff", "the query string is not UTF-8 text"),
        ("GET", "/collections/a?name=b", "name: unknown query parameter; it is given by the path"),
        ("DELETE", "/collections/a?force=maybe", "force: expected true or false"),
        ("POST", "/collections?collection.name=a", "collection.name: unknown query parameter; it is given by the body"),
        ("POST", "/search?query=x", "query: unknown query parameter"),
        ("PATCH", "/collections/a?updateMask.paths=a", "updateMask.paths: unknown query parameter"),
    ],
)
async def test_a_bad_query_parameter_is_refused_by_name(edge: Edge, verb: str, path: str, message: str) -> None:
    body = refusal(await edge.rest(verb, API + path, {} if verb in ("POST", "PATCH") else None), 400, 3)
    assert body["message"] == message


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({"ttl": "abc"}, "ttl"),
        ({"createTime": "yesterday"}, "createTime"),
        ({"name": "collections/other"}, "collections/other"),
    ],
)
async def test_what_only_the_transcoder_can_judge_is_named_too(edge: Edge, sent: dict[str, Any], named: str) -> None:
    assert named in refusal(await edge.rest("PATCH", f"{COLLECTIONS}/a", sent), 400, 3)["message"]


@pytest.mark.parametrize(
    "path", ["/nope", "/collections/a:serch", "/collections/a/b/c", "/collections/", "//collections"]
)
async def test_an_unknown_path_is_not_found_and_named(edge: Edge, path: str) -> None:
    response = await edge.rest("GET", API + path)
    if path == "//collections":  # slashes are merged
        assert response.status_code == 200
        return
    assert refusal(response, 404, 5)["message"] == f"no such path: {API}{path}"


async def test_outside_the_api_nothing_is_found(edge: Edge) -> None:
    for path in ("/", "/graphql", "/ragweave.internal.v1.IndexService/DropIndex"):
        refusal(await edge.rest("GET", path), 404, 5)


async def test_a_wrong_verb_is_told_the_right_ones(edge: Edge) -> None:
    response = await edge.rest("PUT", f"{COLLECTIONS}/a")
    assert response.headers["x-request-id"]
    assert refusal(response, 405, 12)["message"] == f"{COLLECTIONS}/a does not take PUT, only DELETE, GET, PATCH"
    assert response.headers["allow"] == "DELETE, GET, PATCH"


@pytest.mark.parametrize("path", [f"{COLLECTIONS}%2fa", f"{API}/..%2f..%2fadmin", f"{COLLECTIONS}/a%5Cb"])
async def test_escaped_slashes_are_refused(edge: Edge, path: str) -> None:
    url = httpx.URL(str(edge.http.base_url)).copy_with(raw_path=path.encode())
    response = await edge.http.get(url, headers=edge.bearer())
    assert "path_normalization_failed" in refusal(response, 400, 3)["message"]


async def test_headers_with_underscores_are_refused(edge: Edge) -> None:
    response = await edge.rest("GET", COLLECTIONS, headers={**edge.bearer(), "x_tenant": "evil"})
    assert "underscore" in refusal(response, 400, 3)["message"]


async def test_a_form_is_not_json(edge: Edge) -> None:
    form = {**edge.bearer(), "content-type": "application/x-www-form-urlencoded"}
    body = refusal(await edge.rest("POST", SEARCH, b"query=a", headers=form), 415, 3)
    assert "content-type: application/json" in body["message"]
    charset = {**edge.bearer(), "content-type": "application/json; charset=utf-8"}
    assert (await edge.rest("POST", SEARCH, {"query": "q"}, headers=charset)).status_code == 200


async def test_a_body_where_none_belongs_is_refused_and_an_empty_one_is_none(edge: Edge) -> None:
    body = refusal(await edge.rest("GET", COLLECTIONS, {"a": 1}), 400, 3)
    assert body["message"] == "this path takes no body"
    assert (await edge.rest("POST", f"{API}/jobs/j:cancel")).status_code == 200
    assert (await edge.rest("POST", f"{API}/jobs/j:cancel", b"")).status_code == 200


async def _raw(edge: Edge, head: str, chunks: int = 0) -> tuple[int, dict[str, Any]]:
    """An answer that may come while the body is still being sent, which most clients cannot read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.settings.port)
    bearer = edge.bearer()["authorization"]
    writer.write(f"POST {head}\r\nhost: edge\r\nauthorization: {bearer}\r\n\r\n".encode())

    async def send() -> None:
        for _ in range(chunks):
            writer.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
            await writer.drain()

    sending = asyncio.create_task(send())
    try:
        top, _, rest = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
        length = int(rest.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return int(top.split()[1]), json.loads(await reader.readexactly(length))
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()


@pytest.mark.parametrize(
    ("head", "chunks"),
    [
        (f"{SEARCH} HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {MAX_JSON + 1}", 0),
        (f"{SEARCH} HTTP/1.1\r\ncontent-type: application/json\r\ntransfer-encoding: chunked", 8),
        (f"{COLLECTIONS}/c/documents:upload HTTP/1.1\r\ncontent-length: {MAX_UPLOAD + 1}", 0),
    ],
    ids=["declared", "chunked", "upload"],
)
async def test_a_body_over_the_limit_is_413(edge: Edge, head: str, chunks: int) -> None:
    status, body = await _raw(edge, head, chunks)
    assert (status, body["code"], body["details"][0]["reason"]) == (413, 3, "REQUEST_TOO_LARGE")
    assert str(MAX_JSON) in body["message"]


async def test_a_body_just_under_the_limit_passes(edge: Edge) -> None:
    text = "ä" * ((MAX_JSON - 100) // 2)
    made = await edge.rest(
        "POST", f"{COLLECTIONS}/c/documents", json.dumps({"text": text}, ensure_ascii=False).encode()
    )
    assert made.json()["document"]["sizeBytes"] == str(len(text))


NAMES = ["collections/x/documents/x"]
QUERIES = {"BatchGetDocuments": f"?names={NAMES[0]}", "ListDirectoryEntries": "?path=x", "GetUpload": "?requestId=x"}
NEEDED: dict[str, Any] = {
    "CreateRevocation": {"subject": "x"},
    "CreateEvaluation": {"sampleQuerySet": "x"},
    "ValidatePath": {"path": "x"},
    "CreateDocument": {"text": "t"},
    "ImportDocuments": {"directory": {"path": "p"}},
    "BatchDeleteDocuments": {"names": NAMES},
    "PurgeDocuments": {"filter": "*"},
    "Embed": {"texts": ["t"]},
    "BatchSearch": {"requests": [{"query": "q"}]},
    "StreamSearch": {"query": "q"},
    "FindSimilar": {"name": f"{NAMES[0]}"},
    "Rerank": {"query": "q", "documents": ["t"]},
    "CountTokens": {"texts": ["t"]},
}


async def test_every_rest_row_of_the_contract_reaches_its_method(edge: Edge) -> None:
    for method in contract.methods().values():
        for binding in method.http:
            path = (
                re.sub(r"\{[^=}]*=([^}]*)\}", r"\1", binding.template)
                .replace("deliveries/*", "deliveries/1")
                .replace("*", "x")
            )
            query = QUERIES.get(method.name, "")
            content = NEEDED.get(method.name, {}) if binding.body else None
            response = await edge.rest(binding.verb, path + query, content)
            assert response.status_code == 200, (binding, response.text)
            assert edge.backend.seen.paths[-1] == method.path


CREATE = collection_service_pb2.CreateCollectionRequest(collection={})


def _signed(world: World, **claims: Any) -> str:
    return f"Bearer {world.token(roles=['admin'], **claims)}"


def _parts(world: World) -> list[str]:
    return world.token(roles=["admin"]).split(".")


def _by_secret(world: World) -> str:
    """Signed with a shared secret, under the id of the real key."""
    claims = {"iss": "ragweave", "aud": "ragweave", "sub": "ann", "tenant": "acme", "exp": 4102444800}
    header = {"alg": "HS256", "kid": world.user_key.kid}
    return "Bearer " + jwt.encode(header, claims, OctKey.generate_key(256), algorithms=["HS256"])


BAD_TOKENS: dict[str, Callable[[World], str | None]] = {
    "none": lambda world: None,
    "garbage": lambda world: "Bearer garbage",
    "another scheme": lambda world: "Basic YTpi",
    "unsigned": lambda world: f"Bearer eyJhbGciOiJub25lIn0.{_parts(world)[1]}.",
    "cut": lambda world: "Bearer " + ".".join(_parts(world)[:2]),
    "tampered": lambda world: "Bearer {}.{}AA.{}".format(*_parts(world)),
    "another key": lambda world: _signed(world, key=new_key()),
    "a shared secret": _by_secret,
    "expired": lambda world: _signed(world, exp=1),
    "without expiry": lambda world: _signed(world, exp=None),
    "not yet valid": lambda world: _signed(world, nbf=4102444700, exp=4102444800),
    "another issuer": lambda world: _signed(world, iss="someone"),
    "another audience": lambda world: _signed(world, aud="someone"),
    "a service's": lambda world: _signed(world, iss="ragweave-mesh", aud="ragweave-internal"),
}


@pytest.mark.parametrize("kind", BAD_TOKENS)
async def test_without_a_valid_token_rest_grpc_and_grpc_web_are_unauthenticated(edge: Edge, kind: str) -> None:
    token = BAD_TOKENS[kind](edge.world)
    sent = {} if token is None else {"authorization": token}
    body = refusal(await edge.rest("POST", COLLECTIONS, {}, headers=sent), 401, 16)
    assert "authorization: Bearer" in body["message"]
    assert body["details"][0]["reason"] == "UNAUTHENTICATED"
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateCollection(CREATE, metadata=tuple(sent.items()))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "{" not in (caught.value.details() or "")
    _, _, trailers = await edge.web("/ragweave.v1.CollectionService/CreateCollection", CREATE, sent)
    assert trailers["grpc-status"] == "16"


async def test_a_token_in_the_query_is_no_token(edge: Edge) -> None:
    token = edge.world.token(roles=["admin"])
    refusal(await edge.rest("GET", f"{COLLECTIONS}?access_token={token}", headers={}), 401, 16)


async def test_a_token_without_the_scope_is_told_which_it_lacks(edge: Edge) -> None:
    reader = edge.bearer(roles=["reader"])
    body = refusal(await edge.rest("POST", COLLECTIONS, {}, headers=reader), 403, 7)
    assert body["message"] == "the token lacks the scope collections.write"
    assert body["details"][0]["metadata"] == {"scope": "collections.write"}
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateCollection(CREATE, metadata=tuple(reader.items()))
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"roles": None, "scope": "search collections.write jobs.read"}, 200),
        ({"roles": None, "scope": "collections.write"}, 200),
        ({"roles": None, "scope": "collections.writer"}, 403),
        ({"roles": None, "scope": "collections.read search"}, 403),
        ({"roles": ["editor"]}, 200),
        ({"roles": ["unknown", "reader"]}, 403),
        ({"roles": None}, 403),
    ],
    ids=str,
)
async def test_scopes_and_roles_open_methods(edge: Edge, claims: dict[str, Any], status: int) -> None:
    response = await edge.rest("POST", f"{COLLECTIONS}?collectionId=x", {}, headers=edge.bearer(**claims))
    assert response.status_code == status, response.text


async def test_public_methods_take_no_token_or_a_good_one(edge: Edge) -> None:
    for path in (SEARCH, f"{COLLECTIONS}/c:search"):
        assert (await edge.rest("POST", path, {"query": "q"}, headers={})).status_code == 200
        assert (await edge.rest("POST", path, {"query": "q"}, headers=edge.bearer(roles=["reader"]))).status_code == 200
        refusal(await edge.rest("POST", path, {"query": "q"}, headers={"authorization": "Bearer x"}), 401, 16)
        refusal(await edge.rest("POST", path, {"query": "q"}, headers={"authorization": "Basic x"}), 401, 16)
        no_scope = edge.bearer(roles=None, scope="jobs.read")
        refusal(await edge.rest("POST", path, {"query": "q"}, headers=no_scope), 403, 7)


async def test_health_and_reflection_need_no_token_and_internal_services_are_not_there(edge: Edge) -> None:
    health = edge.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await health(b"") == b"\x08\x01"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(b"", metadata=(("authorization", "Bearer garbage"),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    for path in ("/ragweave.internal.v1.IndexService/DropIndex", "/ragweave.v1.RetrievalService/Nothing"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await edge.channel.unary_unary(path)(b"", metadata=tuple(edge.bearer().items()))
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_browser_may_ask_from_a_known_origin_without_a_token(edge: Edge) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    for path in (SEARCH, COLLECTIONS, "/ragweave.v1.CollectionService/CreateCollection"):
        allowed = await edge.http.options(path, headers={"origin": "http://localhost:3000", **asks})
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "http://localhost:3000"
        assert "authorization" in allowed.headers["access-control-allow-headers"]
        assert "POST" in allowed.headers["access-control-allow-methods"]
        stranger = await edge.http.options(path, headers={"origin": "http://localhost.evil.example", **asks})
        assert stranger.status_code >= 400
        assert "access-control-allow-origin" not in stranger.headers


async def test_refusals_can_be_read_by_a_page(edge: Edge) -> None:
    response = await edge.rest("GET", COLLECTIONS, headers={"origin": "http://localhost:3000"})
    refusal(response, 401, 16)
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


async def test_what_only_the_mesh_may_say_is_not_taken_from_clients(edge: Edge) -> None:
    claimed = {"x-ragweave-tenant": "other", "x-envoy-upstream-rq-timeout-ms": "1", "x-envoy-original-path": "/x"}
    await edge.rest("POST", SEARCH, {"query": "q"}, headers={**edge.bearer(), **claimed})
    arrived = edge.backend.seen.metadata[-1]
    assert "x-ragweave-tenant" not in arrived
    assert "x-envoy-upstream-rq-timeout-ms" not in arrived
    assert arrived["x-envoy-original-path"] == SEARCH
    assert arrived["authorization"].startswith("Bearer ")


async def test_a_grpc_caller_cannot_pose_as_rest(edge: Edge) -> None:
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CreateCollection(CREATE, metadata=(("x-envoy-original-path", "/x"),))
    assert caught.value.details() == "no valid token; send authorization: Bearer <token>"


@pytest.mark.parametrize(
    ("sent", "kept"), [("req-1.a:b_c", "req-1.a:b_c"), ('bad "id', "bad--id"), ("x" * 200, "x" * 128)]
)
async def test_the_request_id_is_the_callers_where_it_is_plain(edge: Edge, sent: str, kept: str) -> None:
    response = await edge.rest("POST", SEARCH, {"query": "q"}, headers={**edge.bearer(), "x-request-id": sent})
    assert response.headers["x-request-id"] == kept
    assert edge.backend.seen.metadata[-1]["x-request-id"] == kept
    stub = collection_service_pb2_grpc.CollectionServiceStub(edge.channel)
    call = stub.GetCollection(
        collection_service_pb2.GetCollectionRequest(name="a"), metadata=(*edge.bearer().items(), ("x-request-id", sent))
    )
    assert dict(await call.initial_metadata() or ())["x-request-id"] == kept


async def test_a_request_without_an_id_gets_one_and_a_trace(edge: Edge) -> None:
    response = await edge.rest("POST", SEARCH, {"query": "q"})
    request_id = response.headers["x-request-id"]
    assert request_id
    arrived = edge.backend.seen.metadata[-1]
    assert arrived["x-request-id"] == request_id
    line = await logged(edge, request_id)
    assert line["trace_id"] == arrived["traceparent"].split("-")[1]
    assert (line["tenant"], line["subject"], line["code"]) == ("acme", "ann", 200)
    assert (line["verb"], line["path"], line["method"]) == ("POST", SEARCH, "/ragweave.v1.RetrievalService/Search")
    assert line["grpc_code"] == "OK"
    assert line["duration_ms"] >= 0


@pytest.mark.parametrize(
    ("query", "code", "grpc_code"),
    [
        ("invalid", 400, "INVALID_ARGUMENT"),
        ("missing", 404, "NOT_FOUND"),
        ("crash", 500, "INTERNAL"),
        ("unavailable 99", 503, "UNAVAILABLE"),
    ],
)
async def test_the_log_has_the_code_that_the_service_answered_with(
    edge: Edge, query: str, code: int, grpc_code: str
) -> None:
    answer = await edge.rest("POST", SEARCH, {"query": query})
    line = await logged(edge, answer.headers["x-request-id"])
    assert (answer.status_code, line["code"], line["grpc_code"]) == (code, code, grpc_code)
    stub = retrieval_service_pb2_grpc.RetrievalServiceStub(edge.channel)
    metadata = (*edge.bearer().items(), ("x-request-id", f"grpc-{grpc_code}"))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Search(search_pb2.SearchRequest(query=query, collection="c"), metadata=metadata)
    assert (await logged(edge, f"grpc-{grpc_code}"))["grpc_code"] == grpc_code


async def test_the_log_has_no_code_of_grpc_where_the_edge_itself_refuses_a_rest_call(edge: Edge) -> None:
    answer = await edge.rest("POST", SEARCH, {"query": 3})
    line = await logged(edge, answer.headers["x-request-id"])
    assert (line["code"], line.get("grpc_code")) == (400, None)


async def logged(edge: Edge, request_id: str) -> dict[str, Any]:
    """The edge's line of a call; Envoy writes its log in blocks."""
    async with asyncio.timeout(10):
        while not (lines := [line for line in edge.logged() if line.get("request_id") == request_id]):
            await asyncio.sleep(0.05)
    [line] = lines
    return line


async def test_the_log_holds_no_token_and_no_query(edge: Edge) -> None:
    response = await edge.rest("GET", f"{COLLECTIONS}?filter=secretword")
    async with asyncio.timeout(10):
        while response.headers["x-request-id"] not in (log := edge.log.read_text()):
            await asyncio.sleep(0.05)  # Envoy writes its log in blocks
    assert "secretword" not in log
    assert "Bearer" not in log


async def test_an_accepted_search_arrives_as_it_was_sent(edge: Edge) -> None:
    sent = {"query": "q", "topK": 3, "mode": "DENSE", "collections": ["a", "b"], "readMask": "text,score"}
    assert (await edge.rest("POST", SEARCH, sent)).status_code == 200
    assert edge.backend.seen.searches[-1] == search_pb2.SearchRequest(
        query="q",
        top_k=3,
        mode=search_pb2.SearchRequest.DENSE,
        collections=["a", "b"],
        read_mask={"paths": ["text", "score"]},
    )


async def test_headers_that_are_too_large_are_refused_like_all_else(edge: Edge) -> None:
    answer = await edge.rest("GET", f"{COLLECTIONS}?filter={'a' * 40_000}")
    assert refusal(answer, 431, 3)["details"][0]["reason"] == "HEADERS_TOO_LARGE"
    assert answer.headers["x-api-version"] == "v1" and answer.headers["x-request-id"]
