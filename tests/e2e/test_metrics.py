"""Every process of a running mesh tells its metrics: those that dashboards, alerts and docs name, and nobody's own."""

import re
import secrets
import urllib.error
import urllib.request

import pytest
import yaml

from compose.observability.boards import BOARDS
from tests.e2e.stack import PREFIX, ROOT, Mesh
from tests.promql import metrics_in

HERE = ROOT / "compose" / "observability"
PAGE = ROOT / "docs" / "observability.md"
# Prometheus makes these itself.
SCRAPED = {"up"}
# What a histogram's and a counter's samples are called beside their family.
_SAMPLES = ("_bucket", "_sum", "_count", "_total")
# Names of labels, of all metrics that are ours, and what keeps each short.
LABELS = {
    "code",  # gRPC's
    "collection",  # uids of the largest few
    "dependency",  # as the code names them
    "event",
    "lane",
    "layer",
    "le",
    "method",  # the contract's
    "model",  # the settings'
    "operation",
    "outcome",
    "path",  # the gateway's own routes
    "rate_class",
    "reason",
    "service",
    "stage",
    "state",
    "status",  # HTTP's
    "step",
    "version",
}


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def ports(mesh: Mesh) -> dict[str, int]:
    """Metrics ports of the processes by what they are called."""
    return {part: port for part, port in mesh.layout.ports.items() if part.endswith(" metrics")}


def edge_metrics(mesh: Mesh) -> str:
    return f"http://127.0.0.1:{mesh.settings['RAGWEAVE_EDGE_METRICS_PORT']}"


@pytest.fixture(scope="module")
def exported(mesh: Mesh) -> dict[str, str]:
    """What each process shows, after at least one search."""
    found = mesh.rest("POST", f"{PREFIX}/search", {"query": "list comprehension", "collection": "python-reference"})
    assert found.status == 200
    shown = {part: read(f"http://127.0.0.1:{port}/metrics") for part, port in ports(mesh).items()}
    return {**shown, "edge": read(f"{edge_metrics(mesh)}/stats/prometheus")}


def families(text: str) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))


def family_of(sample: str, known: set[str]) -> str:
    for suffix in ("", *_SAMPLES):
        if sample.endswith(suffix) and (name := sample.removesuffix(suffix)) in known:
            return name
    return ""


def test_every_metric_that_a_dashboard_or_a_rule_names_is_exported(exported: dict[str, str]) -> None:
    rules = [
        rule
        for path in (HERE / "rules").glob("*.yml")
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
    ]
    queries = [
        query
        for board in BOARDS
        for panels in board.rows.values()
        for panel in panels
        for query in panel.queries.values()
    ]
    named = {name for query in (*queries, *(rule["expr"] for rule in rules)) for name in metrics_in(query)}
    series = {name for name in named if ":" not in name} - SCRAPED
    known = {family for text in exported.values() for family in families(text)}
    assert len(series) > 50
    assert {name for name in series if not family_of(name, known)} == set()


def test_every_metric_of_ours_is_in_the_docs_and_none_besides(exported: dict[str, str]) -> None:
    ours = {name for text in exported.values() for name in families(text) if name.startswith("ragweave_")}
    told = set(re.findall(r"^\| `(ragweave_\w+)`", PAGE.read_text("utf-8"), re.MULTILINE))
    assert told == ours


def test_a_metric_is_labelled_by_what_we_name_and_never_by_what_callers_do(
    exported: dict[str, str], mesh: Mesh
) -> None:
    labels = {
        label
        for text in exported.values()
        for line in re.findall(r"^ragweave_\w+\{(.*)\}", text, re.MULTILINE)
        for label in re.findall(r'(\w+)="', line)
    }
    assert labels <= LABELS

    mine = secrets.token_hex(8)
    token = mesh.token(tenant=f"tenant-{mine}", subject=f"subject-{mine}")
    name = f"collection-{mine}"
    made = mesh.rest("POST", f"{PREFIX}/collections?collectionId={name}", {"displayName": name}, token=token)
    asked = {"query": f"query-{mine}", "collection": name}
    mesh.rest("POST", f"{PREFIX}/search", asked, token=token, headers={"x-request-id": f"request-{mine}"})
    mesh.rest("GET", f"{PREFIX}/nothing-{mine}", token=token)
    mesh.grpcurl(mesh.layout.address("retrieval"), f"ragweave.v1.Service{mine}/Method{mine}", token=token)
    assert made.status in (200, 400)
    shown = [read(f"http://127.0.0.1:{port}/metrics") for port in ports(mesh).values()]
    assert not any(mine in text for text in (*shown, read(f"{edge_metrics(mesh)}/stats/prometheus")))


def test_no_metric_has_more_series_than_the_contract_and_the_settings_have_names(exported: dict[str, str]) -> None:
    for text in exported.values():
        lines = [line for line in text.splitlines() if line.startswith("ragweave_") and "_bucket{" not in line]
        for family in {line.split("{")[0].split(" ")[0] for line in lines}:
            assert len([line for line in lines if line.startswith((f"{family}{{", f"{family} "))]) <= 500, family


def test_the_edge_shows_its_metrics_and_nothing_else_of_its_admin_page(mesh: Mesh) -> None:
    assert "envoy_server_live" in read(f"{edge_metrics(mesh)}/stats/prometheus?usedonly")
    for method, path in (
        ("GET", "/"),
        ("GET", "/config_dump"),
        ("POST", "/quitquitquit"),
        ("POST", "/stats/prometheus"),
    ):
        request = urllib.request.Request(f"{edge_metrics(mesh)}{path}", method=method)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=30)
        refused.value.close()
        assert refused.value.code == 404
