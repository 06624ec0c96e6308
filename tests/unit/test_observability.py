"""The dashboards, the rules and the configuration of what watches the mesh."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from compose.observability.boards import BOARDS
from compose.observability.dashboards import FOLDER, SOURCE, rendered
from ragweave.local.layout import PORTS
from tests.prometheus import configuration
from tests.promql import metrics_in, unfiltered

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "compose" / "observability"
PAGE = ROOT / "docs" / "operations.md"


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules of all files by name: those with "alert" or "record"."""
    groups = [group for path in (HERE / "rules").glob("*.yml") for group in parsed(path)["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def tool(name: str) -> str:
    """A tool of Prometheus: where `make install` put it, or on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed: `make install` finds it on Debian alone")
    return found


def run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


ALERTS, RECORDED = rules("alert"), rules("record")
CASES = [case for path in (HERE / "rules_tests").glob("*.yml") for case in parsed(path)["tests"]]
QUERIES = {
    f"{board.uid}: {panel.title}: {legend}": query
    for board in BOARDS
    for panels in board.rows.values()
    for panel in panels
    for legend, query in panel.queries.items()
}


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.uid)
def test_dashboards_are_what_the_script_makes_of_their_boards(board: Any) -> None:
    committed = (FOLDER / f"{board.uid}.json").read_text("utf-8")
    assert committed == rendered(board), "run `make dashboards`"
    assert {each["datasource"]["uid"] for each in json.loads(committed)["panels"] if "datasource" in each} == {
        SOURCE.uid
    }


def test_there_is_no_dashboard_beside_those_of_the_boards_and_grafana_is_told_where_they_are() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {board.uid for board in BOARDS}
    [source, _] = parsed(HERE / "grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert (source["uid"], source["type"]) == (SOURCE.uid, SOURCE.type_val)
    [provider] = parsed(HERE / "grafana/provisioning/dashboards/ragweave.yaml")["providers"]
    assert provider["options"]["path"].endswith("/dashboards")


def anchors(page: Path) -> set[str]:
    """What links to a page may end with: its headings, as Markdown's renderers name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_it_says_what_to_do(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
    assert name.lower() in anchors(PAGE)


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_is_held_to_data_it_fires_on_and_to_data_it_does_not(name: str) -> None:
    checks = [check for case in CASES for check in case["alert_rule_test"] if check["alertname"] == name]
    assert any(check.get("exp_alerts") for check in checks)
    assert any(not check.get("exp_alerts") for check in checks)


def test_no_case_is_of_an_alert_that_is_gone() -> None:
    assert {check["alertname"] for case in CASES for check in case["alert_rule_test"]} == ALERTS.keys()


def test_alerts_are_muted_only_by_alerts_that_exist() -> None:
    named = {
        word
        for rule in parsed(HERE / "alertmanager.yml")["inhibit_rules"]
        for matcher in (*rule["source_matchers"], *rule["target_matchers"])
        for word in re.findall(r"\w+", matcher.partition("=")[2])
    }
    assert named <= ALERTS.keys()


def test_what_is_recorded_is_named_as_it_is_read() -> None:
    read = [*QUERIES.values(), *(rule["expr"] for rule in (*ALERTS.values(), *RECORDED.values()))]
    recorded = {name for expression in read for name in metrics_in(expression) if ":" in name}
    assert recorded <= RECORDED.keys()


def test_each_process_is_scraped_at_the_port_it_has_by_default() -> None:
    scraped = {
        job["job_name"]: config["port"]
        for job in parsed(HERE / "prometheus.yml")["scrape_configs"]
        for config in job.get("dns_sd_configs", ())
    }
    ports = {part.removesuffix(" metrics"): port for part, (_, port) in PORTS.items() if part.endswith(" metrics")}
    assert scraped.items() - ports.items() == {("edge", scraped["edge"])}
    assert ports.items() <= scraped.items()


def test_promtool_accepts_the_rules_and_the_configuration(tmp_path: Path) -> None:
    promtool = tool("promtool")
    run(promtool, "check", "rules", *(HERE / "rules").glob("*.yml"))
    config = (HERE / "prometheus.yml").read_text("utf-8").replace("/etc/prometheus", str(HERE))
    (tmp_path / "prometheus.yml").write_text(config, "utf-8")
    run(promtool, "check", "config", tmp_path / "prometheus.yml")


@pytest.mark.parametrize("path", sorted((HERE / "rules_tests").glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_on_recorded_data_when_they_must_and_only_then(path: Path) -> None:
    run(tool("promtool"), "test", "rules", path)


def test_every_query_of_the_dashboards_is_promql(tmp_path: Path) -> None:
    filled = [query.replace("$__rate_interval", "5m").replace("$job", ".*") for query in QUERIES.values()]
    made = [{"record": f"query:number_{number}", "expr": query} for number, query in enumerate(filled)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": made}]}))
    run(tool("promtool"), "check", "rules", tmp_path / "queries.yml")


def test_alertmanager_accepts_its_configuration() -> None:
    run(tool("amtool"), "check-config", HERE / "alertmanager.yml")


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ('sum by (job) (rate(a_total{code="b_c"}[5m])) / on () group_left () x:y:z > 0.1', {"a_total", "x:y:z"}),
        ('absent(up{job="edge"}) or time() - max by (step) (a_seconds) unless b_bytes', {"up", "a_seconds", "b_bytes"}),
        ("histogram_quantile(0.95, sum by (a, le) (rate(a_bucket{}[$__rate_interval])))", {"a_bucket"}),
    ],
)
def test_metrics_are_found_in_promql(expression: str, named: set[str]) -> None:
    assert metrics_in(expression) == named


@pytest.mark.parametrize(
    ("alert", "parts"),
    [
        ('up{job!="prometheus"} == 0', ['up{job!="prometheus"} == bool 0']),
        ('absent(up{job="a"}) or absent(up{job="b"})', ['(up{job="a"})', '(up{job="b"})']),
        (
            "max(a[1m]) > 0 unless on () sum(increase(b[10m] or c)) >= 3",
            ["max(a[1m]) > bool 0 and on () sum(increase(b[10m] or c)) >= bool 3"],
        ),
        ("time() - (max(a) > 0) > 26 * 3600", ["time() - (max(a) > bool 0) > bool 26 * 3600"]),
    ],
)
def test_what_an_alert_looks_at_is_asked_for_whether_it_fires_or_not(alert: str, parts: list[str]) -> None:
    assert unfiltered(alert) == parts


def test_what_every_alert_looks_at_is_promql(tmp_path: Path) -> None:
    parts = [part for alert in ALERTS.values() for part in unfiltered(alert["expr"])]
    made = [{"record": f"part:number_{number}", "expr": part} for number, part in enumerate(parts)]
    (tmp_path / "parts.yml").write_text(yaml.safe_dump({"groups": [{"name": "alerts", "rules": made}]}))
    run(tool("promtool"), "check", "rules", tmp_path / "parts.yml")


def test_the_campaign_watches_every_job_that_is_scraped_and_changes_nothing_but_where_it_is() -> None:
    ours = parsed(HERE / "prometheus.yml")
    jobs = [job["job_name"] for job in ours["scrape_configs"]]
    moved = configuration({job: f"127.0.0.1:{port}" for port, job in enumerate(jobs, 9000)}, "127.0.0.1:9093")
    assert [job["static_configs"][0]["targets"] for job in moved["scrape_configs"]] == [
        [f"127.0.0.1:{port}"] for port in range(9000, 9000 + len(jobs))
    ]
    assert moved["global"] == ours["global"]
    assert [job.get("metrics_path") for job in moved["scrape_configs"]] == [
        job.get("metrics_path") for job in ours["scrape_configs"]
    ]
    with pytest.raises(KeyError):
        configuration({}, "127.0.0.1:9093")
