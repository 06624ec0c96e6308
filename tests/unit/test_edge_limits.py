"""Rate limits as settings: what is taken, what is refused by name, and what a caller over its limit is told."""

import json
from base64 import b64decode
from pathlib import Path

import pytest
import yaml
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from google.rpc.status_pb2 import Status
from pydantic import ValidationError

from ragweave import contract
from services.mesh.edge import EdgeSettings, parsed, render, validate
from services.mesh.edge_limits import CLASSES, DEFAULT_LIMITS, limits_from, refusals, service_config, tiers_of
from tests.mesh.harness import World


def test_every_class_of_the_contract_is_limited_but_the_one_that_says_it_is_not() -> None:
    declared = {each.rate_class for each in contract.methods().values() if not each.internal}
    assert declared - {"UNLIMITED"} <= set(CLASSES)
    assert set(DEFAULT_LIMITS) == set(CLASSES)


def test_the_defaults_are_the_contracts() -> None:
    per_minute = {name: (tiers["free"], tiers["pro"]) for name, tiers in EdgeSettings().rate_limits.items()}
    assert per_minute == {
        "SEARCH": (100, 1000), "READ": (100, 1000), "WRITE": (20, 200), "INGEST": (10, 100), "ADMIN": (50, 50),
    }  # fmt: skip


def test_what_is_not_named_keeps_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_EDGE_RATE_LIMITS", '{"SEARCH": {"pro": 5000}}')
    found = EdgeSettings().rate_limits
    assert found["SEARCH"] == {"anonymous": 100, "free": 100, "pro": 5000}
    assert found["WRITE"] == DEFAULT_LIMITS["WRITE"]


def test_a_tier_of_ones_own_names_every_class() -> None:
    assert tiers_of(limits_from({name: {"team": 7} for name in CLASSES})) == ("anonymous", "free", "pro", "team")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"SERCH": {"pro": 1}}, "no rate class SERCH; there are SEARCH, READ, WRITE, INGEST, ADMIN"),
        ({"UNLIMITED": {"pro": 1}}, "no rate class UNLIMITED"),
        ({"SEARCH": {"prro": 1}}, "the tier prro has no limit for READ, WRITE, INGEST, ADMIN"),
        ({"SEARCH": {"pro": 0}}, "SEARCH of pro is 0; a limit is 1 to"),
        ({"SEARCH": {"pro": -1}}, "SEARCH of pro is -1"),
        ({"SEARCH": {"pro": 10**12}}, "SEARCH of pro is 1000000000000"),
        ({"SEARCH": {"pro": "many"}}, "valid integer"),
        ({name: {"a:b": 1} for name in CLASSES}, "the tier a:b"),
    ],
)
def test_a_typo_is_told(given: object, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_EDGE_RATE_LIMITS", json.dumps(given))
    with pytest.raises(ValidationError, match=said):
        EdgeSettings()


@pytest.mark.parametrize(
    ("limit", "seconds", "delay"), [(1000, "1", 0.06), (100, "1", 0.6), (20, "3", 3), (7, "9", 8.572), (1, "60", 60)]
)
def test_a_refused_caller_is_told_when_the_next_token_is_there(limit: int, seconds: str, delay: float) -> None:
    told = refusals({**DEFAULT_LIMITS, "READ": {"free": limit}})["READ"]["free"]
    assert told["retry_after"] == seconds
    assert float(told["retry_delay"].removesuffix("s")) == pytest.approx(delay)
    assert int(told["retry_ms"]) == pytest.approx(delay * 1000)
    assert delay >= 60 / limit


def test_a_refusal_over_grpc_carries_its_details() -> None:
    status = Status.FromString(b64decode(refusals(DEFAULT_LIMITS)["WRITE"]["pro"]["status"]))
    info, quota, retry = ErrorInfo(), QuotaFailure(), RetryInfo()
    for detail, into in zip(status.details, (info, quota, retry), strict=True):
        assert detail.Unpack(into)
    assert (status.code, status.message) == (8, "more than 200 WRITE calls a minute, the limit of tier pro")
    assert (info.reason, dict(info.metadata)) == (
        "RATE_LIMIT_EXCEEDED", {"class": "WRITE", "tier": "pro", "limit": "200"},
    )  # fmt: skip
    assert [each.subject for each in quota.violations] == ["class:WRITE"]
    assert retry.retry_delay.ToMilliseconds() == 300


def test_limits_can_be_switched_off(tmp_path: Path) -> None:
    config = render(EdgeSettings(mesh=World.in_folder(tmp_path).mesh, rate_limiting=False), tmp_path / "edge")
    manager = parsed(config)["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]
    names = [each["name"] for each in manager["typed_config"]["http_filters"]]
    assert "envoy.filters.http.local_ratelimit" not in names
    assert "tier" not in names
    assert names[-3:] == ["envoy.filters.http.rbac", "pressure", "envoy.filters.http.router"]


@pytest.mark.parametrize(
    ("service", "port", "host"),
    [("10.0.0.1:8081", 8081, None), ("https://limits.example.com:8081", 8081, "limits.example.com"), ("", None, None)],
)
def test_a_service_that_counts_for_several_edges_is_a_setting(
    service: str, port: int | None, host: str | None, tmp_path: Path
) -> None:
    out = tmp_path / "edge"
    config = parsed(render(EdgeSettings(mesh=World.in_folder(tmp_path).mesh, rate_limit_service=service), out))
    validate(out)
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    assert ("limits" in clusters) == (out / "ratelimit.yaml").exists() == bool(service)
    if service:
        [endpoint] = clusters["limits"]["load_assignment"]["endpoints"][0]["lb_endpoints"]
        assert endpoint["endpoint"]["address"]["socket_address"]["port_value"] == port
        assert clusters["limits"].get("transport_socket", {}).get("typed_config", {}).get("sni") == host


def test_a_service_without_a_port_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="limits: an endpoint is host:port"):
        render(EdgeSettings(mesh=World.in_folder(tmp_path).mesh, rate_limit_service="limits"), tmp_path / "edge")


def test_the_service_is_told_the_same_limits() -> None:
    config = yaml.safe_load(service_config(DEFAULT_LIMITS))
    assert config["domain"] == "ragweave"
    told = {
        (rate_class["value"], tier["value"]): tier["descriptors"][0]
        for rate_class in config["descriptors"]
        for tier in rate_class["descriptors"]
    }
    assert told["SEARCH", "anonymous"] == {
        "key": "masked_remote_address", "rate_limit": {"unit": "minute", "requests_per_unit": 100},
    }  # fmt: skip
    assert told["INGEST", "pro"] == {
        "key": "tenant",
        "descriptors": [{"key": "subject", "rate_limit": {"unit": "minute", "requests_per_unit": 100}}],
    }
    assert len(told) == 15
