"""Envoy: callers before it, replicas behind it."""

from typing import Final

from compose.observability.boards.parts import Board, Panel, quantile, quantiles, rate

_EDGE: Final = 'envoy_http_conn_manager_prefix="edge"'
_FULL: Final = "envoy_overload_envoy_resource_monitors"
# The clusters callers' requests go to, not those the edge has for itself.
_SERVICES: Final = 'envoy_cluster_name=~"collections|embedding|gateway|jobs|retrieval|system"'

EDGE: Final = Board(
    "ragweave-edge",
    "Ragweave: edge",
    "What callers see at Envoy, what it refuses, and how it stands with the replicas behind it.",
    {
        "Callers": [
            Panel(
                "Requests by class of status",
                "reqps",
                {
                    "{{envoy_response_code_class}}xx": rate(
                        "envoy_http_downstream_rq_xx", "envoy_response_code_class", _EDGE
                    )
                },
                stacked=True,
            ),
            Panel("Duration", "s", quantiles("envoy_http_downstream_rq_time", _EDGE, 0.001)),
            Panel(
                "Requests and connections now",
                "short",
                {
                    "requests": f"sum(envoy_http_downstream_rq_active{{{_EDGE}}})",
                    "connections": f"sum(envoy_http_downstream_cx_active{{{_EDGE}}})",
                },
            ),
            Panel(
                "Refused",
                "reqps",
                {
                    "over the limit (429)": rate("envoy_http_local_rate_limit_rate_limited"),
                    "not allowed (403)": rate("envoy_http_rbac_denied", where=_EDGE),
                    "token not valid (401)": rate("envoy_http_jwt_authn_denied", where=_EDGE),
                    "body not read": rate("envoy_http_lua_errors", where=_EDGE),
                },
            ),
        ],
        "Replicas behind it": [
            Panel(
                "Healthy replicas",
                "short",
                {"{{envoy_cluster_name}}": f"envoy_cluster_membership_healthy{{{_SERVICES}}}"},
            ),
            Panel(
                "Ejected replicas",
                "short",
                {"{{envoy_cluster_name}}": f"envoy_cluster_outlier_detection_ejections_active{{{_SERVICES}}}"},
            ),
            Panel(
                "Duration, p95",
                "s",
                {
                    "{{envoy_cluster_name}}": quantile(
                        0.95, "envoy_cluster_upstream_rq_time", "envoy_cluster_name", _SERVICES
                    )
                    + " * 0.001"
                },
            ),
            Panel(
                "Retries",
                "reqps",
                {
                    "{{envoy_cluster_name}}": rate("envoy_cluster_upstream_rq_retry", "envoy_cluster_name", _SERVICES),
                    "{{envoy_cluster_name}}: over the budget": rate(
                        "envoy_cluster_upstream_rq_retry_overflow", "envoy_cluster_name", _SERVICES
                    ),
                },
            ),
            Panel(
                "Trouble",
                "reqps",
                {
                    "{{envoy_cluster_name}}: not connected": rate(
                        "envoy_cluster_upstream_cx_connect_fail", "envoy_cluster_name", _SERVICES
                    ),
                    "{{envoy_cluster_name}}: late": rate(
                        "envoy_cluster_upstream_rq_timeout", "envoy_cluster_name", _SERVICES
                    ),
                    "{{envoy_cluster_name}}: too many": rate(
                        "envoy_cluster_upstream_rq_pending_overflow", "envoy_cluster_name", _SERVICES
                    ),
                },
            ),
            Panel(
                "Full",
                "short",
                {"{{envoy_cluster_name}}": f"envoy_cluster_circuit_breakers_default_rq_open{{{_SERVICES}}}"},
                "1 while a cluster has as many requests as it may.",
            ),
        ],
        "Envoy itself": [
            Panel("Memory", "bytes", {"{{instance}}": "envoy_server_memory_allocated"}),
            Panel(
                "How full",
                "percent",
                {
                    "memory": f"max({_FULL}_fixed_heap_pressure)",
                    "connections": f"max({_FULL}_global_downstream_max_connections_pressure)",
                },
                limit=90,
            ),
            Panel("Up since", "s", {"{{instance}}": "envoy_server_uptime"}),
        ],
    },
)
