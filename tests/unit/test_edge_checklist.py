"""Envoy's own checklist for an edge, item by item: configuration/best_practices/edge and level_two of Envoy 1.40.

Each row is an item, where it stands in the rendered configuration, and what must stand there. Removing one from the
template fails here by name.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ragweave import contract
from services.mesh.edge import OWNERS, parsed, render
from services.mesh.edge_headers import answered
from services.mesh.edge_settings import EdgeSettings
from tests.mesh.harness import World

LISTENER = "static_resources.listeners.0"
MANAGER = f"{LISTENER}.filter_chains.0.filters.0.typed_config"
HTTP1, HTTP2 = f"{MANAGER}.http_protocol_options", f"{MANAGER}.http2_protocol_options"
COMMON = f"{MANAGER}.common_http_protocol_options"
RUNTIME = "layered_runtime.layers.0.static_layer"
HEAP = "envoy.resource_monitors.fixed_heap"

Expectation = Callable[[Any], bool]


def is_(wanted: Any) -> Expectation:
    return lambda found: found == wanted and type(found) is type(wanted)


def at_most(most: float) -> Expectation:
    """A number, or a duration in seconds, that bounds something."""
    return lambda found: 0 < float(str(found).removesuffix("s")) <= most


def named(*names: str) -> Expectation:
    """A list that has all of these by name."""
    return lambda found: set(names) <= {each["name"] for each in found}


def triggered_by(monitor: str) -> Expectation:
    """A list of actions that each wait for this monitor."""
    return lambda found: all(monitor in [trigger["name"] for trigger in each["triggers"]] for each in found)


@dataclass(frozen=True)
class Item:
    """One line of the checklist."""

    name: str
    path: str
    expected: Expectation


EDGE = [
    Item("the admin endpoint is restricted", "admin.address.socket_address.address", is_("127.0.0.1")),
    Item("the admin endpoint answers a full edge", "admin.ignore_global_conn_limit", is_(True)),
    Item("overload: looked at often", "overload_manager.refresh_interval", at_most(0.25)),
    Item("overload: a heap limit", "overload_manager.resource_monitors", named(HEAP)),
    Item(
        "overload: the heap limit is set",
        "overload_manager.resource_monitors.0.typed_config.max_heap_size_bytes",
        at_most(2 * 2**30),
    ),
    Item(
        "overload: actions",
        "overload_manager.actions",
        named(
            "envoy.overload_actions.shrink_heap",
            "envoy.overload_actions.stop_accepting_requests",
            "envoy.overload_actions.disable_http_keepalive",
            "envoy.overload_actions.reduce_timeouts",
            "envoy.overload_actions.reset_high_memory_stream",
        ),
    ),
    Item("overload: actions follow the heap", "overload_manager.actions", triggered_by(HEAP)),
    Item(
        "overload: streams are told apart by memory",
        "overload_manager.buffer_factory_config.minimum_account_to_track_power_of_two",
        at_most(20),
    ),
    Item(
        "overload: load is shed as connections and requests arrive",
        "overload_manager.loadshed_points",
        named("envoy.load_shed_points.tcp_listener_accept", "envoy.load_shed_points.http2_server_go_away_on_dispatch"),
    ),
    Item("overload: shedding follows the heap", "overload_manager.loadshed_points", triggered_by(HEAP)),
    Item(
        "global downstream connection limit",
        "overload_manager.resource_monitors",
        named("envoy.resource_monitors.global_downstream_max_connections"),
    ),
    Item(
        "global downstream connection limit is set",
        "overload_manager.resource_monitors.1.typed_config.max_active_downstream_connections",
        at_most(50_000),
    ),
    Item(
        "listener connection limit", f"{RUNTIME}.envoy~resource_limits~listener~edge~connection_limit", at_most(10_000)
    ),
    Item("the listener the limit names", f"{LISTENER}.name", is_("edge")),
    Item("listener buffer limit", f"{LISTENER}.per_connection_buffer_limit_bytes", is_(32768)),
    Item("a handshake must end", f"{LISTENER}.filter_chains.0.transport_socket_connect_timeout", at_most(15)),
    Item("use_remote_address", f"{MANAGER}.use_remote_address", is_(True)),
    Item("nobody in front is believed unasked", f"{MANAGER}.xff_num_trusted_hops", is_(0)),
    Item("connection idle timeout", f"{COMMON}.idle_timeout", at_most(3600)),
    Item("headers with underscores", f"{COMMON}.headers_with_underscores_action", is_("REJECT_REQUEST")),
    Item("a bound of headers", f"{COMMON}.max_headers_count", at_most(100)),
    Item("connections are renewed", f"{COMMON}.max_requests_per_connection", at_most(1_000_000)),
    Item("a bound of header bytes", f"{MANAGER}.max_request_headers_kb", at_most(60)),
    Item("request headers timeout", f"{MANAGER}.request_headers_timeout", at_most(10)),
    Item("request timeout", f"{MANAGER}.request_timeout", at_most(3600)),
    Item("stream idle timeout", f"{MANAGER}.stream_idle_timeout", at_most(300)),
    Item("a connection told to close closes", f"{MANAGER}.delayed_close_timeout", at_most(1)),
    Item("HTTP/2 concurrent streams", f"{HTTP2}.max_concurrent_streams", at_most(100)),
    Item("HTTP/2 stream window", f"{HTTP2}.initial_stream_window_size", is_(65536)),
    Item("HTTP/2 connection window", f"{HTTP2}.initial_connection_window_size", is_(1048576)),
    Item("HTTP/2: no tunnels", f"{HTTP2}.allow_connect", is_(False)),
    Item("HTTP/2: no metadata frames", f"{HTTP2}.allow_metadata", is_(False)),
    Item("HTTP/2: frames queued", f"{HTTP2}.max_outbound_frames", at_most(10_000)),
    Item("HTTP/2: control frames queued", f"{HTTP2}.max_outbound_control_frames", at_most(1000)),
    Item("HTTP/2: empty frames", f"{HTTP2}.max_consecutive_inbound_frames_with_empty_payload", at_most(1)),
    Item("HTTP/2: priority frames", f"{HTTP2}.max_inbound_priority_frames_per_stream", at_most(100)),
    Item("HTTP/2: window updates", f"{HTTP2}.max_inbound_window_update_frames_per_data_frame_sent", at_most(10)),
    Item("HTTP/2: dead peers are found", f"{HTTP2}.connection_keepalive.timeout", at_most(20)),
    Item(
        "HTTP/2: reset floods",
        f"{RUNTIME}.overload~premature_reset_total_stream_count",
        at_most(500),
    ),
    Item("HTTP/2: what counts as such", f"{RUNTIME}.overload~premature_reset_min_stream_lifetime_seconds", at_most(1)),
    Item("requests taken of a connection at a time", f"{RUNTIME}.http~max_requests_per_io_cycle", at_most(100)),
    Item("HTTP/1.0 is refused", f"{HTTP1}.accept_http_10", is_(False)),
    Item("content-length beside chunks is refused", f"{HTTP1}.allow_chunked_length", is_(False)),
    Item("HTTP/1 trailers are dropped", f"{HTTP1}.enable_trailers", is_(False)),
    Item("malformed requests end their connection", f"{MANAGER}.stream_error_on_invalid_http_message", is_(False)),
    Item("the same, HTTP/1", f"{HTTP1}.override_stream_error_on_invalid_http_message", is_(False)),
    Item("the same, HTTP/2", f"{HTTP2}.override_stream_error_on_invalid_http_message", is_(False)),
    Item("normalize_path", f"{MANAGER}.normalize_path", is_(True)),
    Item("merge_slashes", f"{MANAGER}.merge_slashes", is_(True)),
    Item("escaped slashes", f"{MANAGER}.path_with_escaped_slashes_action", is_("REJECT_REQUEST")),
    Item("the server names itself alone", f"{MANAGER}.server_header_transformation", is_("OVERWRITE")),
    Item("client certificates are not relayed", f"{MANAGER}.forward_client_cert_details", is_("SANITIZE")),
    Item("request ids", f"{MANAGER}.generate_request_id", is_(True)),
    Item("request ids on answers", f"{MANAGER}.always_set_request_id_in_response", is_(True)),
]


def found_at(config: Any, path: str) -> Any:
    """What stands at a path; ~ stands for a dot inside a key. KeyError where nothing does."""
    for step in path.split("."):
        config = config[int(step)] if isinstance(config, list) else config[step.replace("~", ".")]
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return rendered(tmp_path_factory.mktemp("world"))


def rendered(folder: Path, **settings: Any) -> Any:
    world = World.in_folder(folder)
    return parsed(render(EdgeSettings(mesh=world.mesh, **settings), folder / "edge"))


@pytest.mark.parametrize("item", EDGE, ids=lambda item: item.name)
def test_the_edge_has_every_item_of_envoys_checklist(config: Any, item: Item) -> None:
    assert item.expected(found_at(config, item.path)), found_at(config, item.path)


def test_clusters_have_every_item_of_envoys_checklist(config: Any) -> None:
    clusters = {each["name"]: each for each in config["static_resources"]["clusters"]}
    for owner in set(OWNERS.values()):
        cluster = clusters[owner]
        assert cluster["per_connection_buffer_limit_bytes"] == 32768
        [options] = cluster["typed_extension_protocol_options"].values()
        http2 = options["explicit_http_config"]["http2_protocol_options"]
        assert (http2["initial_stream_window_size"], http2["initial_connection_window_size"]) == (65536, 1048576)
        assert http2["hpack_table_size"] == 0
        assert float(cluster["connect_timeout"].removesuffix("s")) <= 15
        for threshold in cluster["circuit_breakers"]["thresholds"]:
            assert {"max_connections", "max_pending_requests", "max_requests", "retry_budget"} <= threshold.keys()


def test_every_route_has_an_end_of_its_own(config: Any) -> None:
    [host] = found_at(config, MANAGER)["route_config"]["virtual_hosts"]
    for route in host["routes"]:
        action = route.get("route")
        if action and action["cluster"] != "nowhere":
            assert float(action["max_stream_duration"]["max_stream_duration"].removesuffix("s")) > 0, route


def test_a_request_may_last_as_long_as_the_longest_method_that_takes_a_stream(config: Any) -> None:
    longest = max(each.timeout_s for each in contract.methods().values() if each.client_streaming and not each.internal)
    assert float(found_at(config, f"{MANAGER}.request_timeout").removesuffix("s")) == longest


def test_behind_another_proxy_one_clients_fault_does_not_end_a_connection_of_many(tmp_path: Path) -> None:
    """The level two checklist: the connection is the proxy's, and carries other clients' requests."""
    behind = rendered(tmp_path, trusted_hops=1)
    for path in (
        f"{MANAGER}.stream_error_on_invalid_http_message",
        f"{HTTP1}.override_stream_error_on_invalid_http_message",
        f"{HTTP2}.override_stream_error_on_invalid_http_message",
    ):
        assert found_at(behind, path) is True
    taken = [each["remove"] for each in _early(behind) if "remove" in each]
    assert "x-forwarded-for" not in taken
    assert "x-forwarded-host" in taken


def test_what_only_the_mesh_or_the_connection_may_say_is_taken_away_first(config: Any) -> None:
    mutations = _early(config)
    matched = [each["remove_on_match"]["key_matcher"] for each in mutations if "remove_on_match" in each]
    assert [each.get("prefix") or each["suffix"] for each in matched] == ["x-ragweave-", "x-envoy-", "-bin"]
    assert all(each["ignore_case"] for each in matched)
    taken = {each["remove"] for each in mutations if "remove" in each}
    assert {"x-forwarded-for", "forwarded", "x-real-ip", "x-forwarded-client-cert", "x-http-method-override"} <= taken


def test_cors_is_answered_before_tokens_are_asked_for_and_paths_are_moved_before_both_are_judged(config: Any) -> None:
    names = [each["name"] for each in found_at(config, MANAGER)["http_filters"]]
    order = [
        "envoy.filters.http.cors",
        "br",
        "gzip",
        "legacy",
        "envoy.filters.http.grpc_web",
        "envoy.filters.http.jwt_authn",
        "envoy.filters.http.body_size_limit",
        "envoy.filters.http.lua",
        "envoy.filters.http.grpc_json_transcoder",
        "envoy.filters.http.local_ratelimit",
        "envoy.filters.http.rbac",
        "envoy.filters.http.router",
    ]
    assert [name for name in names if name in order] == order
    assert names[-1] == "envoy.filters.http.router"


def test_a_refusal_of_any_status_has_a_mapper_for_each_kind_of_caller(config: Any) -> None:
    mappers = found_at(config, MANAGER)["local_reply_config"]["mappers"]
    assert mappers[-4]["body_format_override"]["content_type"] == "application/json"
    for last in mappers[-4:]:
        [value] = [each["comparison"] for each in _statuses(last["filter"])]
        assert (value["op"], value["value"]["default_value"]) == ("GE", 400)
    for mapper in mappers:
        if "json_format" in mapper.get("body_format_override", {}):
            assert set(mapper["body_format_override"]["json_format"]) == {"code", "message", "details"}


def _early(config: Any) -> Any:
    [mutation] = found_at(config, MANAGER)["early_header_mutation_extensions"]
    return mutation["typed_config"]["mutations"]


def _statuses(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        if "status_code_filter" in node:
            yield node["status_code_filter"]
        node = list(node.values())
    for each in node if isinstance(node, list) else ():
        yield from _statuses(each)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, None),
        ({"hsts_s": 60}, "max-age=60; includeSubDomains"),
        ({"tls": True}, "max-age=3600; includeSubDomains"),
        ({"tls": True, "profile": "production"}, "max-age=31536000; includeSubDomains"),
        ({"tls": True, "hsts_s": 0}, None),
    ],
    ids=json.dumps,
)
def test_browsers_are_told_to_insist_on_https_where_it_is_spoken(
    tmp_path: Path, settings: dict[str, Any], expected: str | None
) -> None:
    mesh = World.in_folder(tmp_path).mesh.model_copy(
        update={name: value for name, value in settings.items() if name in ("tls", "profile")}
    )
    edge = EdgeSettings(mesh=mesh, **{name: value for name, value in settings.items() if name == "hsts_s"})
    assert answered(edge).get("strict-transport-security") == expected
