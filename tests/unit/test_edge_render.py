"""The edge's configuration follows from the contract and the settings."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from pydantic import ValidationError

from ragweave import contract
from ragweave.local.authority import ensure_certificates
from services.mesh import edge
from services.mesh.edge import (
    GATEWAY,
    OPEN_SERVICES,
    OWNERS,
    PAGES,
    command,
    main,
    origin_pattern,
    parsed,
    render,
    validate,
)
from services.mesh.edge_clusters import cluster_of
from services.mesh.edge_settings import EdgeSettings
from services.mesh.edge_tls import write_secrets
from services.mesh.settings import MeshSettings
from tests.mesh.harness import World, new_key

PUBLIC = [each for each in contract.methods().values() if not each.internal]


def rendered(settings: EdgeSettings, folder: Path) -> dict[str, Any]:
    config = parsed(render(settings, folder))
    assert isinstance(config, dict)
    return config


def manager(config: dict[str, Any]) -> dict[str, Any]:
    [chain] = config["static_resources"]["listeners"][0]["filter_chains"]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def routes(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    [host] = manager(config)["route_config"]["virtual_hosts"]
    matches = ((next(iter(each["match"].values())), each) for each in host["routes"])
    return {how["regex"] if isinstance(how, dict) else how: each for how, each in matches}


def http_filter(config: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [each["typed_config"] for each in manager(config)["http_filters"] if each["name"] == name]
    assert isinstance(found, dict)
    return found


def jwt_of(folder: Path) -> dict[str, Any]:
    """The JWT filter as Envoy reads it from its own file."""
    [found] = json.loads((folder / "jwt.json").read_bytes())["resources"]
    return dict(found["typed_config"])


@pytest.fixture
def settings(tmp_path: Path) -> EdgeSettings:
    return EdgeSettings(mesh=World.in_folder(tmp_path).mesh)


@pytest.fixture
def config(settings: EdgeSettings, tmp_path: Path) -> dict[str, Any]:
    return rendered(settings, tmp_path / "edge")


def test_envoy_itself_accepts_what_is_rendered(settings: EdgeSettings, tmp_path: Path) -> None:
    render(settings, tmp_path / "edge")
    validate(tmp_path / "edge")


def test_envoy_accepts_every_optional_part(settings: EdgeSettings, tmp_path: Path) -> None:
    mesh = MeshSettings(
        data_dir=tmp_path,
        redis_url="redis://127.0.0.1:1/0",
        jwks="https://login.example.com/keys",
        otlp_endpoint="http://127.0.0.1:4317",
    )
    full = EdgeSettings(
        mesh=mesh, retrieval_endpoints=("a.example:1", "b.example:2"), cors_origins=(), metrics_port=9902
    )
    config = rendered(full, tmp_path / "edge")
    validate(tmp_path / "edge")
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    assert clusters["retrieval"]["type"] == "STRICT_DNS"
    assert clusters["jwks"]["transport_socket"]["typed_config"]["sni"] == "login.example.com"
    provider = jwt_of(tmp_path / "edge")["providers"]["users"]
    assert provider["remote_jwks"]["cache_duration"] == "30s"
    assert manager(config)["tracing"]["random_sampling"] == {"value": 100.0}


def test_the_metrics_port_shows_the_metrics_and_nothing_else_of_the_admin_page(tmp_path: Path) -> None:
    mesh = World.in_folder(tmp_path).mesh
    _, listener = rendered(EdgeSettings(mesh=mesh, metrics_port=9902), tmp_path)["static_resources"]["listeners"]
    [host] = listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["virtual_hosts"]
    [route] = host["routes"]
    assert route["match"]["path"] == "/stats/prometheus"
    assert route["match"]["headers"] == [{"name": ":method", "string_match": {"exact": "GET"}}]
    assert route["route"]["cluster"] == "admin"
    assert len(rendered(EdgeSettings(mesh=mesh), tmp_path)["static_resources"]["listeners"]) == 1


def test_envoy_accepts_tls_on_every_side(tmp_path: Path) -> None:
    ensure_certificates(tmp_path / "tls", ["edge"])
    endpoint = "https://otel.example.com:4317"
    mesh = World.in_folder(tmp_path, otlp_endpoint=endpoint, tls=True).mesh
    config = rendered(EdgeSettings(mesh=mesh), tmp_path / "edge")
    validate(tmp_path / "edge")
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    assert clusters["otlp"]["transport_socket"]["typed_config"]["sni"] == "otel.example.com"
    for owner in set(OWNERS.values()):
        common = clusters[owner]["transport_socket"]["typed_config"]["common_tls_context"]
        (name,) = common["combined_validation_context"]["default_validation_context"]["match_typed_subject_alt_names"]
        assert name == {"san_type": "DNS", "matcher": {"exact": f"{owner}.ragweave.internal"}}
        assert common["alpn_protocols"] == ["h2"]
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    shown = chain["transport_socket"]["typed_config"]
    assert "require_client_certificate" not in shown
    assert shown["common_tls_context"]["tls_params"]["tls_minimum_protocol_version"] == "TLSv1_2"
    assert "PRIVATE KEY" not in "".join(path.read_text("latin-1") for path in (tmp_path / "edge").iterdir())


def test_mounted_certificates_are_checked_against_the_targets_hosts_or_the_name_given(tmp_path: Path) -> None:
    files = {f"tls_{name}": tmp_path / name for name in ("cert", "key", "ca")}
    mesh = World.in_folder(tmp_path, tls=True, **files).mesh
    endpoints = ("dns:///jobs.example:1", "10.0.0.1:1", "10.0.0.1:2")
    hosts = write_secrets(EdgeSettings(mesh=mesh, jobs_endpoints=endpoints), tmp_path, ["jobs"]).names["jobs"]
    assert hosts == [
        {"san_type": "DNS", "matcher": {"exact": "jobs.example"}},
        {"san_type": "IP_ADDRESS", "matcher": {"exact": "10.0.0.1"}},
    ]
    called = MeshSettings(**{**mesh.model_dump(), "tls_server_name": "mesh.example"})
    names = write_secrets(EdgeSettings(mesh=called, jobs_endpoints=endpoints), tmp_path, ["jobs"]).names["jobs"]
    assert names == [{"san_type": "DNS", "matcher": {"exact": "mesh.example"}}]


def test_a_mesh_that_admits_no_strangers_needs_a_token_for_every_method_that_is_not_open(tmp_path: Path) -> None:
    rendered(EdgeSettings(mesh=World.in_folder(tmp_path, anonymous=False).mesh), tmp_path / "edge")
    rules = jwt_of(tmp_path / "edge")["rules"]
    optional = {rule["match"].get("prefix") for rule in rules if rule.get("requirement_name") == "optional"}
    assert optional - {None} == {f"/{service}/" for service in OPEN_SERVICES}
    paths = {rule["match"].get("path") for rule in rules if rule.get("requirement_name") == "optional"}
    assert paths - {None} == {each.path for each in PUBLIC if each.open}


def test_a_configuration_envoy_refuses_is_told_in_its_words(settings: EdgeSettings, tmp_path: Path) -> None:
    render(settings, tmp_path).write_text("nonsense: true")
    with pytest.raises(ValueError, match="nonsense"):
        validate(tmp_path)


def test_every_public_service_has_an_owner() -> None:
    assert {each.service for each in PUBLIC} == OWNERS.keys()


def test_a_service_without_an_owner_is_named(
    settings: EdgeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge, "OWNERS", {name: owner for name, owner in OWNERS.items() if "Job" not in name})
    with pytest.raises(edge.UnownedService, match=r"ragweave\.v1\.JobService"):
        render(settings, tmp_path)


def test_every_public_method_has_one_route_with_its_deadline_and_nothing_internal_has(config: dict[str, Any]) -> None:
    table = routes(config)
    for method in PUBLIC:
        action = table[method.path]["route"]
        assert action["cluster"] == OWNERS[method.service]
        assert action["timeout"] == "0s"
        assert set(action["max_stream_duration"].values()) == {f"{method.timeout_s}s"}
    assert not [path for path in table if "internal" in path]
    assert list(table)[-1] == "/"
    assert table["/"]["route"]["cluster"] == "nowhere"


def test_only_unary_methods_without_side_effects_are_retried(config: dict[str, Any]) -> None:
    retried = {path for path, route in routes(config).items() if "retry_policy" in route.get("route", {})} - set(PAGES)
    assert retried == {each.path for each in PUBLIC if each.retried}
    assert retried


def test_pages_are_the_gateways_for_whoever_asks_within_limits(config: dict[str, Any], tmp_path: Path) -> None:
    open_to_all = [rule["match"] for rule in jwt_of(tmp_path / "edge")["rules"] if "requirement_name" not in rule]
    assert open_to_all == [{"path_separated_prefix": page} for page in PAGES]
    for page in PAGES:
        route = routes(config)[page]
        assert route["route"]["cluster"] == GATEWAY
        assert route["metadata"]["filter_metadata"]["ragweave"]["class"] == "READ"
        assert route["typed_per_filter_config"]["envoy.filters.http.grpc_json_transcoder"]["services"] == []
    [cluster] = [each for each in config["static_resources"]["clusters"] if each["name"] == GATEWAY]
    assert cluster["health_checks"][0]["http_health_check"] == {"path": "/healthz"}
    assert cluster["outlier_detection"]["enforcing_consecutive_gateway_failure"] == 100


def test_every_public_method_is_guarded_by_its_scope_and_the_rest_is_denied(config: dict[str, Any]) -> None:
    rules = http_filter(config, "envoy.filters.http.rbac")["rules"]
    assert rules["action"] == "ALLOW"
    guarded = {
        permission["url_path"]["path"]["exact"]: name.removesuffix(".public")
        for name, policy in rules["policies"].items()
        if name != "open"
        for permission in policy["permissions"]
    }
    assert guarded == {each.path: each.scope for each in PUBLIC if not each.open}
    anyone = [permission["url_path"]["path"] for permission in rules["policies"]["open"]["permissions"]]
    assert {path["exact"] for path in anyone if "exact" in path} == {each.path for each in PUBLIC if each.open}
    assert not any(
        {"any": True} in policy["principals"] for name, policy in rules["policies"].items() if name != "open"
    )


def test_roles_open_what_their_scopes_open(config: dict[str, Any]) -> None:
    policies = http_filter(config, "envoy.filters.http.rbac")["rules"]["policies"]
    assert '"admin"' in json.dumps(policies["documents.write"])
    assert '"editor"' in json.dumps(policies["documents.write"])
    assert '"reader"' not in json.dumps(policies["documents.write"])
    assert '"reader"' in json.dumps(policies["collections.read"])


def test_a_token_is_needed_unless_the_method_says_otherwise(config: dict[str, Any], tmp_path: Path) -> None:
    rules = jwt_of(tmp_path / "edge")["rules"]
    assert rules[-1] == {"match": {"prefix": "/"}, "requirement_name": "needed"}
    optional = [rule["match"] for rule in rules if rule.get("requirement_name") == "optional"]
    public = [each for each in PUBLIC if each.public_collections or each.open]
    assert {match["path"] for match in optional if "path" in match} == {each.path for each in public}
    assert len([match for match in optional if "safe_regex" in match]) == sum(len(each.http) for each in public)


def test_the_descriptor_set_loads_and_holds_error_details_but_no_internal_service(
    settings: EdgeSettings, tmp_path: Path
) -> None:
    render(settings, tmp_path)
    files = FileDescriptorSet.FromString((tmp_path / "contract.binpb").read_bytes())
    pool = DescriptorPool()
    for file in files.file:
        pool.Add(file)
    assert pool.FindMessageTypeByName("google.rpc.ErrorInfo")
    assert pool.FindServiceByName("ragweave.v1.RetrievalService")
    assert not [file.name for file in files.file if "internal" in file.name]


def test_rendering_twice_gives_the_same_files(settings: EdgeSettings, tmp_path: Path) -> None:
    render(settings, tmp_path / "edge")
    first = {path.name: path.read_bytes() for path in (tmp_path / "edge").iterdir()}
    render(settings, tmp_path / "edge")
    assert {path.name: path.read_bytes() for path in (tmp_path / "edge").iterdir()} == first
    assert set(first) == {"envoy.yaml", "jwt.json", "contract.binpb", "request.lua", "run.json"}


def test_values_cannot_break_out_of_their_place(tmp_path: Path) -> None:
    mesh = World.in_folder(tmp_path, issuer='x"], evil: ["', audience="a: b # c").mesh
    rendered(EdgeSettings(mesh=mesh), tmp_path / "edge")
    provider = jwt_of(tmp_path / "edge")["providers"]["users"]
    assert (provider["issuer"], provider["audiences"]) == ('x"], evil: ["', ["a: b # c"])


def test_lists_of_settings_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_EDGE_RETRIEVAL_ENDPOINTS", "10.0.0.1:1, 10.0.0.2:2")
    monkeypatch.setenv("RAGWEAVE_EDGE_CORS_ORIGINS", "")
    found = EdgeSettings()
    assert found.endpoints("retrieval") == ("10.0.0.1:1", "10.0.0.2:2")
    assert found.cors_origins == ()
    assert found.endpoints("jobs") == ("127.0.0.1:50054",)
    monkeypatch.setenv("RAGWEAVE_EDGE_PORT", "70000")
    with pytest.raises(ValidationError, match="port"):
        EdgeSettings()


@pytest.mark.parametrize(
    ("endpoint", "kind", "address"),
    [
        ("10.0.0.1:50051", "STATIC", {"socket_address": {"address": "10.0.0.1", "port_value": 50051}}),
        ("[::1]:50051", "STATIC", {"socket_address": {"address": "::1", "port_value": 50051}}),
        ("dns:///jobs:50054", "STRICT_DNS", {"socket_address": {"address": "jobs", "port_value": 50054}}),
        ("ipv4:10.0.0.1:1", "STATIC", {"socket_address": {"address": "10.0.0.1", "port_value": 1}}),
        ("unix:/run/jobs.sock", "STATIC", {"pipe": {"path": "/run/jobs.sock"}}),
    ],
)
def test_grpc_targets_become_envoy_addresses(endpoint: str, kind: str, address: dict[str, Any]) -> None:
    cluster = cluster_of([endpoint])
    assert (cluster.type, cluster.addresses) == (kind, (address,))


@pytest.mark.parametrize("endpoint", ["nowhere", "host:", ":1", "host:0", "host:65536", "host:http"])
def test_an_endpoint_without_a_port_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match=endpoint):
        cluster_of([endpoint])


def test_a_star_in_an_origin_stands_for_one_label() -> None:
    assert origin_pattern("https://*.example.com") == r"https://[A-Za-z0-9-]+\.example\.com"


def test_the_command_line_renders_validates_and_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    World.in_folder(tmp_path)
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", "redis://127.0.0.1:1/0")
    main(["--out", str(tmp_path / "edge"), "--validate"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "edge" / "envoy.yaml")


def test_the_command_line_says_why_envoy_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_DATA_DIR", str(tmp_path / "without-keys"))
    monkeypatch.setenv("RAGWEAVE_REDIS_URL", "redis://127.0.0.1:1/0")
    with pytest.raises(SystemExit, match=r"jwks\.json"):
        main(["--out", str(tmp_path / "edge"), "--validate"])


def test_what_runs_the_edge_is_told_how_and_which_keys_to_watch(settings: EdgeSettings, tmp_path: Path) -> None:
    render(settings, tmp_path / "edge")
    plan = json.loads((tmp_path / "edge" / "run.json").read_bytes())
    assert plan == {"command": command(settings, tmp_path / "edge"), "keys": str(settings.mesh.jwks)}


def test_keys_that_may_sign_are_not_handed_to_envoy(settings: EdgeSettings, tmp_path: Path) -> None:
    private = new_key().as_dict(private=True)
    secret = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}
    Path(settings.mesh.jwks).write_text(json.dumps({"keys": [private, secret]}))
    render(settings, tmp_path / "edge")
    [key] = json.loads(jwt_of(tmp_path / "edge")["providers"]["users"]["local_jwks"]["inline_string"])["keys"]
    assert key == {name: value for name, value in private.items() if name != "d"}


@pytest.mark.parametrize("jwks", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'])
def test_a_file_without_a_public_key_is_refused_by_name(settings: EdgeSettings, tmp_path: Path, jwks: str) -> None:
    Path(settings.mesh.jwks).write_text(jwks)
    with pytest.raises(ValueError, match=re.escape(str(settings.mesh.jwks))):
        render(settings, tmp_path / "edge")


def test_what_a_service_gets_at_most_is_configured(tmp_path: Path) -> None:
    given = {
        "cluster_connections": 11,
        "cluster_pending": 12,
        "cluster_requests": 13,
        "retry_budget_percent": 14,
        "retry_concurrency": 15,
        "ejection_failures": 16,
        "ejection_s": 90,
    }
    config = rendered(EdgeSettings(mesh=World.in_folder(tmp_path).mesh, **given), tmp_path / "edge")
    validate(tmp_path / "edge")
    owners = [each for each in config["static_resources"]["clusters"] if each["name"] in set(OWNERS.values())]
    assert len(owners) == 5
    for cluster in owners:
        usual, high = cluster["circuit_breakers"]["thresholds"]
        assert high == {"priority": "HIGH", **usual}
        assert usual == {
            "max_connections": 11,
            "max_pending_requests": 12,
            "max_requests": 13,
            "track_remaining": True,
            "retry_budget": {"budget_percent": {"value": 14.0}, "min_retry_concurrency": 15},
        }
        outliers = cluster["outlier_detection"]
        assert outliers["consecutive_gateway_failure"] == 16
        assert (outliers["base_ejection_time"], outliers["max_ejection_time"]) == ("90.0s", "90.0s")


def test_the_edge_repeats_a_read_once_and_has_clients_repeat_nothing_behind_it(config: dict[str, Any]) -> None:
    policies = [each["route"].get("retry_policy") for each in routes(config).values() if "route" in each]
    assert {each["num_retries"] for each in policies if each} == {1}
    told = [
        {each["header"]["key"]: each["header"]["value"] for each in mapper["headers_to_add"]}
        for mapper in manager(config)["local_reply_config"]["mappers"]
        if "UF" in str(mapper["filter"])
    ]
    assert {each["grpc-retry-pushback-ms"] for each in told if "grpc-status" in each} == {"-1"}
