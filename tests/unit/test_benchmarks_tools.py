"""The scenarios of k6 and the configurations of ghz: that they fit the contract, and what is read of their results."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from benchmarks import footprint, ghz, ingest, rest
from ragweave import contract
from tests.e2e.stack import OWNER

METHODS = {each.path.removeprefix("/"): each for each in contract.methods().values()}


@pytest.mark.parametrize("config", ghz.CONFIGS, ids=lambda config: config.stem)
def test_a_configuration_of_ghz_sends_what_its_method_takes(config: Path) -> None:
    told = json.loads(config.read_text())
    method = METHODS[ghz.method_of(config)]
    messages = told["data"] if method.client_streaming else [told["data"]]
    for message in messages:
        filled = json.loads(re.sub(r"\{\{.*?\}\}", "word", json.dumps(message)))
        json_format.ParseDict(filled, GetMessageClass(method.descriptor.input_type)())
    assert method.service.rpartition(".")[2] in OWNER
    assert "host" not in told


def test_every_method_that_is_to_be_measured_has_a_configuration() -> None:
    calls = {ghz.method_of(each).rpartition("/")[2] for each in ghz.CONFIGS}
    unary = {"Search", "BatchSearch", "Embed", "GetCollection", "ListCollections", "GetJob", "ImportDocuments"}
    streams = {"StreamSearch", "StreamEmbed", "WatchJob", "UploadDocument"}
    assert calls == unary | streams
    assert {"search_cached", "search_uncached"} <= {each.stem for each in ghz.CONFIGS}


def test_what_ghz_reports_is_read_in_milliseconds_and_errors_are_what_is_not_ok() -> None:
    told = {
        "rps": 812.5,
        "count": 100,
        "latencyDistribution": [{"percentage": at, "latency": at * 1_000_000} for at in (50, 95, 99)],
        "statusCodeDistribution": {"OK": 97, "Unavailable": 3},
        "errorDistribution": {"no": 3},
    }
    assert ghz.Report.of(told) == ghz.Report(812.5, 50.0, 95.0, 99.0, 100, 3, ["no"])
    assert ghz.Report.of({**told, "latencyDistribution": None}).p50_ms == 0.0


def k6_told(*, p95_ms: float = 100.0, failed: int = 0, unsound: int = 0, dropped: int | None = None) -> dict[str, Any]:
    kept = {"p(95)<500": {"ok": p95_ms < 500}}
    metrics: dict[str, Any] = {
        "http_req_duration": {"values": {"med": 10.0, "p(95)": p95_ms, "p(99)": 900.0}, "thresholds": kept},
        "http_reqs": {"values": {"count": 1000, "rate": 500.0}},
        "http_req_failed": {"values": {"rate": failed / 1000, "passes": failed, "fails": 1000 - failed}},
        "checks": {"values": {"rate": 1.0, "passes": 900, "fails": unsound}},
    }
    if dropped is not None:
        metrics["dropped_iterations"] = {"values": {"count": dropped, "rate": 1.0}}
    return {"metrics": metrics}


def test_requests_that_fail_find_nothing_or_are_never_begun_are_errors() -> None:
    assert rest.Summary.of(k6_told()).errors == 0
    many = rest.Summary.of(k6_told(failed=3, unsound=2, dropped=5))
    assert (many.errors, many.asked) == (8, 1005)
    assert rest.Summary.of(k6_told(unsound=2)).errors == 2
    assert rest.Summary.of(k6_told(p95_ms=501)).crossed == ["http_req_duration p(95)<500"]


def test_the_bar_of_the_mixed_load_is_missed_by_one_error() -> None:
    whole, late = rest.Summary.of(k6_told()), rest.Summary.of(k6_told(p95_ms=501))
    assert rest.bar([whole, whole, late]).met
    assert not rest.bar([late, whole, late]).met
    assert not rest.bar([whole, rest.Summary.of(k6_told(failed=1)), whole]).met
    assert rest.bar(None).met is None


@pytest.mark.parametrize("scenario", rest.SCENARIOS)
def test_every_scenario_of_k6_has_its_script(scenario: str) -> None:
    script = (Path(rest.__file__).parent / "k6" / f"{scenario}.js").read_text()
    assert "thresholds" in script and "handleSummary" in script


def test_documents_to_ingest_are_long_and_no_two_rounds_share_a_paragraph() -> None:
    first, second = (
        {part for each in ingest.corpus(number) for part in each["text"].split("\n\n")} for number in (1, 2)
    )
    assert len(ingest.corpus(1)) > 20
    assert not first & second


def test_the_bar_of_ingest_is_the_median_against_the_faster_layout() -> None:
    rounds = [ingest.Round(100, mesh, {"a": 20.0, "b": 10.0}, 30.0, {}) for mesh in (19.0, 10.0, 25.0)]
    assert ingest.bar(rounds).met and ingest.bar(rounds).measured == "95.0%"
    assert not ingest.bar(rounds[:2]).met


def test_idle_memory_is_that_of_all_processes() -> None:
    assert footprint.bar({"jobs": 400.0, "envoy": 399.0}).met
    assert not footprint.bar({"jobs": 400.0, "envoy": 400.0}).met
