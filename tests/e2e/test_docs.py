"""The API's documentation as the edge serves it. `make docs-test` opens it in a browser."""

import json
import re
from pathlib import Path

import pytest

from tests.e2e.stack import ROOT, Mesh

COMMITTED = json.loads((Path(ROOT) / "docs" / "openapi.json").read_text())


def test_the_page_and_all_it_loads_are_served_to_whoever_asks(mesh: Mesh) -> None:
    page = mesh.rest("GET", "/docs", token=None)
    assert (page.status, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src 'self';" in page.headers["content-security-policy"]
    assert page.headers["x-frame-options"] == "DENY" and page.headers["x-content-type-options"] == "nosniff"
    [script] = re.findall(rb'<script src="([^"]+)">', page.body)
    loaded = mesh.rest("GET", script.decode(), token=None)
    assert (loaded.status, loaded.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    document = mesh.rest("GET", "/docs/openapi.json", token=None)
    assert document.status == 200
    assert document.body == {name: part for name, part in COMMITTED.items() if name != "servers"}


@pytest.mark.parametrize("coding", ["br", "gzip"])
def test_the_script_is_compressed_as_the_browser_likes_it(mesh: Mesh, coding: str) -> None:
    page = mesh.rest("GET", "/docs", token=None)
    [script] = re.findall(rb'<script src="([^"]+)">', page.body)
    loaded = mesh.rest("GET", script.decode(), token=None, headers={"accept-encoding": coding})
    assert loaded.headers["content-encoding"] == coding
    assert "immutable" in loaded.headers["cache-control"]


def test_a_page_that_is_not_there_is_refused_in_the_one_shape(mesh: Mesh) -> None:
    missing = mesh.rest("GET", "/docs/missing", token=None)
    assert (missing.status, missing.body["code"]) == (404, 5)
    assert missing.body["details"][0]["reason"] == "NOT_FOUND"


@pytest.mark.parametrize(
    ("verb", "path", "body", "status"),
    [
        ("POST", "/docs", {}, 405),
        ("DELETE", "/docs/openapi.json", None, 405),
        ("GET", "/docs", {"a": 1}, 400),
        ("GET", "/docs?access_token=secret", None, 401),
        ("GET", "/docs/%2e%2e/healthz", None, 401),
        ("GET", "/docs/..%2fhealthz", None, 400),
        ("GET", "/healthz", None, 401),
        ("GET", "/docsx", None, 401),
    ],
)
def test_nothing_but_pages_is_asked_of_the_gateway(mesh: Mesh, verb: str, path: str, body: object, status: int) -> None:
    answer = mesh.rest(verb, path, body, token=None)
    assert answer.status == status
    assert answer.body["details"][0]["domain"] == "ragweave"


def test_with_a_token_too_the_gateways_health_is_no_path_of_the_edge(mesh: Mesh) -> None:
    assert mesh.rest("GET", "/healthz").status == 404


def test_with_tls_on_the_edge_reaches_it_by_mutual_tls(secure: Mesh) -> None:
    assert secure.rest("GET", "/docs", token=None).status == 200
