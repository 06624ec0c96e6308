"""The gateway's application: what it serves of the documentation, and what it says of itself."""

import hashlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from gateway.app import HEALTH, Health, application
from gateway.documentation import DOCUMENT, POLICY, PREFIX, File, files
from gateway.settings import Settings
from ragweave.local.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
FILES = files()
[SCRIPT] = (path for path in FILES if path.endswith(".js"))


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def health() -> Health:
    return Health()


@pytest_asyncio.fixture
async def client(health: Health, registry: CollectorRegistry) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(FILES, health, registry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as opened:
        yield opened


def test_the_script_is_the_one_that_was_vendored() -> None:
    vendored = json.loads((ROOT / "gateway" / "scalar" / "vendored.json").read_text())
    assert hashlib.sha256(FILES[SCRIPT].content).hexdigest() == vendored["sha256"], "run `make vendor-docs`"
    assert vendored["sha256"][:16] in SCRIPT


def test_the_page_has_files_of_its_own_origin_and_nothing_inline() -> None:
    page = FILES[PREFIX].content.decode()
    assert re.findall(r"<script\b[^>]*>", page) == [f'<script src="{SCRIPT}">']
    assert "<style" not in page and "style=" not in page
    assert not re.findall(r'(?:src|href)="(?!/docs|data:)', page)
    policy = dict(each.split(" ", 1) for each in POLICY.split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"


def test_the_page_reaches_nobody_else() -> None:
    found = re.search(r'data-configuration="([^"]*)"', FILES[PREFIX].content.decode())
    assert found
    configuration: dict[str, Any] = json.loads(found[1].replace("&quot;", '"'))
    assert configuration["telemetry"] is configuration["withDefaultFonts"] is configuration["persistAuth"] is False
    assert configuration["agent"] == configuration["mcp"] == {"disabled": True}
    assert not {"proxyUrl", "proxy"} & configuration.keys()


def test_the_document_is_the_contracts_for_whichever_edge_serves_it() -> None:
    served = json.loads(FILES[DOCUMENT].content)
    committed = json.loads((ROOT / "docs" / "openapi.json").read_text())
    del committed["servers"]
    assert served == committed
    assert [each.message for each in OpenAPIV31SpecValidator(served).iter_errors()] == []


async def test_what_the_page_loads_is_fetched_once_and_what_may_change_is_asked_for_again(
    client: httpx.AsyncClient,
) -> None:
    assert "immutable" in (await client.get(SCRIPT)).headers["cache-control"]
    for path in (PREFIX, DOCUMENT):
        first = await client.get(path)
        assert first.headers["cache-control"] == "no-cache"
        again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert (await client.get(path, headers={"if-none-match": 'W/"other"'})).status_code == 200


async def test_a_head_has_the_headers_of_the_page_without_it(client: httpx.AsyncClient) -> None:
    got, head = await client.get(PREFIX), await client.head(PREFIX)
    assert head.content == b""
    assert head.headers["etag"] == got.headers["etag"]


@pytest.mark.parametrize(
    ("verb", "path", "status", "code", "reason"),
    [
        ("GET", "/docs/other", 404, 5, "NOT_FOUND"),
        ("GET", "/docs/../settings.py", 404, 5, "NOT_FOUND"),
        ("GET", "/", 404, 5, "NOT_FOUND"),
        ("POST", "/docs", 405, 12, "UNIMPLEMENTED"),
    ],
)
async def test_a_refusal_has_the_contracts_one_shape(
    client: httpx.AsyncClient, verb: str, path: str, status: int, code: int, reason: str
) -> None:
    answer = await client.request(verb, path)
    said = answer.json()
    assert (answer.status_code, said["code"], said["details"][0]["reason"]) == (status, code, reason)


async def test_a_failure_tells_nothing_of_its_cause(health: Health, registry: CollectorRegistry) -> None:
    class Broken(dict[str, File]):
        def get(self, *_: object) -> File:  # type: ignore[override]
            raise RuntimeError("a secret")

    transport = httpx.ASGITransport(application(Broken(), health, registry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get(PREFIX)
    assert (answer.status_code, answer.json()["message"]) == (500, "internal error")


async def test_who_drains_says_that_it_is_not_well(client: httpx.AsyncClient, health: Health) -> None:
    assert (await client.get(HEALTH)).status_code == 200
    health.draining = True
    assert (await client.get(HEALTH)).status_code == 503
    assert (await client.get(PREFIX)).status_code == 200


async def test_every_answer_names_its_request(client: httpx.AsyncClient) -> None:
    assert (await client.get(PREFIX, headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    made = (await client.get(PREFIX, headers={"x-request-id": "not one\t"})).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)


async def test_calls_are_counted_by_what_is_served_and_health_is_not(
    client: httpx.AsyncClient, registry: CollectorRegistry
) -> None:
    for path in (PREFIX, "/docs/a", "/docs/b", HEALTH):
        await client.get(path)

    def count(path: str, status: str) -> float | None:
        return registry.get_sample_value("ragweave_http_requests_total", {"path": path, "status": status})

    assert (count(PREFIX, "200"), count("other", "404"), count(HEALTH, "200")) == (1, 2, None)
    assert registry.get_sample_value("ragweave_http_seconds_count", {"path": PREFIX}) == 1


def test_production_is_not_served_in_the_clear(tmp_path: Path) -> None:
    def settings(**given: str) -> Settings:
        return Settings(mesh=Layout.read({"RAGWEAVE_PROFILE": "production", **given}, tmp_path))

    assert settings().mesh.host == "127.0.0.1"
    assert settings(RAGWEAVE_HOST="0.0.0.0", RAGWEAVE_TLS="on").mesh.tls
    with pytest.raises(ValidationError, match="without TLS"):
        settings(RAGWEAVE_HOST="0.0.0.0")
