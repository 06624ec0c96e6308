"""Paths of an earlier version are served as today's, by the same checks, and say that they are deprecated."""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.mesh.edge_stack import Edge, edge_with_backend
from tests.mesh.raw_http import http1

pytestmark = pytest.mark.asyncio(loop_scope="module")

OLD, NEW = "/api/rag", "/api/v1/rag"
DEPRECATION, SUNSET = "@1767225600", "Fri, 01 Jan 2027 00:00:00 GMT"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def edge(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Edge]:
    days = {"legacy_deprecated_on": date(2026, 1, 1), "legacy_sunset_on": date(2027, 1, 1)}
    async with edge_with_backend(tmp_path_factory.mktemp("edge"), max_json_bytes=100_000, **days) as running:
        yield running


def told(answer: httpx.Response) -> tuple[str | None, ...]:
    return tuple(answer.headers.get(name) for name in ("deprecation", "sunset", "link"))


def deprecated(successor: str) -> tuple[str, ...]:
    return DEPRECATION, SUNSET, f'<{successor}>; rel="successor-version"'


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        ("GET", "/collections?pageSize=1&filter=a%20b", None),
        ("GET", "/collections/a", None),
        ("POST", "/search", {"query": "q"}),
        ("POST", "/collections/a:search", {"query": "q"}),
        ("PATCH", "/collections/a?updateMask=description", {"description": "d"}),
        ("POST", "/collections/c/documents:upload", b"text"),
        ("GET", "/jobs/j:watch", None),
    ],
)
async def test_an_old_path_answers_as_the_new_one_and_says_so(edge: Edge, verb: str, path: str, body: Any) -> None:
    old, new = await edge.rest(verb, OLD + path, body), await edge.rest(verb, NEW + path, body)
    assert (old.status_code, old.content) == (new.status_code, new.content) != (404, b"")
    assert old.status_code == 200
    assert old.headers["content-type"] == new.headers["content-type"]
    assert told(old) == deprecated(NEW + path.partition("?")[0])
    assert told(new) == (None, None, None)


@pytest.mark.parametrize(
    ("verb", "path", "sent", "status"),
    [
        ("GET", "/collections", {"headers": {}}, 401),
        ("POST", "/collections", {"body": {}, "headers": {"roles": ["reader"]}}, 403),
        ("POST", "/search", {"body": {"querry": "q"}}, 400),
        ("GET", "/collections?pageSiz=1", {}, 400),
        ("GET", "/nope", {}, 404),
        ("GET", "", {}, 404),
        ("PUT", "/collections", {}, 405),
        ("POST", "/search", {"body": {"query": "q" * 100_001}}, 413),
        ("POST", "/search", {"body": b"<q/>", "headers": {"content-type": "text/xml"}}, 415),
        ("GET", "/collections/missing", {}, 404),
        ("POST", "/search", {"body": {"query": "unavailable 99"}}, 503),
    ],
)
async def test_an_old_path_is_refused_what_the_new_one_is(
    edge: Edge, verb: str, path: str, sent: dict[str, Any], status: int
) -> None:
    given = dict(sent.get("headers", edge.bearer()))
    if "roles" in given:
        given = edge.bearer(roles=given["roles"])
    answers = [await edge.rest(verb, prefix + path, sent.get("body"), headers=given) for prefix in (OLD, NEW)]
    assert [each.status_code for each in answers] == [status, status]
    assert answers[0].json()["code"] == answers[1].json()["code"]
    assert answers[0].json()["message"] == answers[1].json()["message"]
    assert told(answers[0]) == deprecated(NEW + path.partition("?")[0])


async def test_a_search_at_the_old_path_may_be_anonymous_as_at_the_new(edge: Edge) -> None:
    assert (await edge.rest("POST", f"{OLD}/search", {"query": "q"}, headers={})).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/api/rag/../rag/collections/a", "/api/rag/../v1/rag/collections/a", "/api/rag//collections/a",
        "/api/./rag/collections/a", "/api/v1/../rag/collections/a",
    ],
)  # fmt: skip
async def test_a_path_is_made_plain_before_it_is_judged(edge: Edge, path: str) -> None:
    """Nothing can be said in a roundabout way that could not be said directly: it needs the same token."""
    for headers, status in (({}, 401), (edge.bearer(), 200)):
        lines = [f"GET {path} HTTP/1.1", "host: e", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        assert (await http1(edge.settings.port, "\r\n".join(lines).encode())).status == status


@pytest.mark.parametrize(
    "path",
    [
        "/api/ragx/collections", "/api/rag;x/collections", "/API/rag/collections", "/api/rag/v1/rag/collections",
        "/api/rag/rag/collections", "/api/rag/../../ragweave.v1.CollectionService/ListCollections", "/api/rag:x",
        "/rag/collections", "/api/rag/../ragweave.internal.v1.IndexService/DropIndex",
    ],
)  # fmt: skip
async def test_only_the_old_prefix_itself_is_moved(edge: Edge, path: str) -> None:
    before = len(edge.backend.seen.paths)
    lines = [f"GET {path} HTTP/1.1", "host: e", f"authorization: {edge.bearer()['authorization']}", "", ""]
    reply = await http1(edge.settings.port, "\r\n".join(lines).encode())
    assert (reply.status, reply.json()["code"]) == (404, 5)
    assert len(edge.backend.seen.paths) == before


async def test_a_link_cannot_be_broken_out_of(edge: Edge) -> None:
    answer = await edge.http.get(f'{OLD}/collections/a%3E;%22x,"', headers=edge.bearer())
    link = answer.headers["link"]
    assert link.startswith(f"<{NEW}/collections/a") and link.endswith('>; rel="successor-version"')
    assert link.count(">") == 1 and link.count("<") == 1


async def test_the_log_says_who_still_uses_old_paths(edge: Edge) -> None:
    answer = await edge.rest("GET", f"{OLD}/collections?filter=secretword")
    async with asyncio.timeout(30):
        while not (found := [x for x in edge.logged() if x.get("request_id") == answer.headers["x-request-id"]]):
            await asyncio.sleep(0.05)  # Envoy writes its log in blocks
    [line] = found
    assert (line["legacy_path"], line["path"]) == (f"{OLD}/collections", f"{NEW}/collections")
    assert (line["subject"], line["tenant"], line["method"]) == (
        "ann",
        "acme",
        "/ragweave.v1.CollectionService/ListCollections",
    )


@pytest.mark.parametrize("path", ["/api/v2", "/api/v2/", "/api/v2/rag/search", "/api/v2/../v2/x"])
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
async def test_the_next_version_is_reserved_and_says_so_to_everybody(edge: Edge, verb: str, path: str) -> None:
    for headers in ({}, edge.bearer(), {"authorization": "Bearer nonsense"}):
        answer = await edge.rest(verb, path, headers=headers)
        assert answer.status_code == 501
        assert answer.json()["code"] == 12
        assert answer.json()["message"] == "/api/v2 is reserved for a later version; use /api/v1"
        assert answer.json()["details"][0]["reason"] == "UNIMPLEMENTED"


async def test_other_versions_are_not_there(edge: Edge) -> None:
    for path in ("/api/v20", "/api/v3/rag/search", "/api/v2x"):
        assert (await edge.rest("GET", path)).status_code == 404
