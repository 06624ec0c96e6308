"""The headers every answer of the edge carries, and those it takes from nobody."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time
from email.utils import format_datetime

from services.mesh.edge_settings import EdgeSettings

API_VERSION = "v1"
_HOUR_S, _YEAR_S = 3600, 365 * 86400
# Said by the mesh alone: identity claims, and what Envoy's filters tell one another.
_OURS = ("x-ragweave-", "x-envoy-")
# Where a call comes from, which host and path it means, which method it has: said by the connection and the request
# line. Something behind the edge might believe a header rather than them.
_POSING = (
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-client-cert",
    "x-forwarded-server",
    "x-forwarded-scheme",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-url",
    "x-original-host",
    "x-original-method",
    "x-rewrite-url",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "proxy",
    "proxy-authorization",
)
# Read by gRPC servers themselves, which refuse a call for a value they cannot parse; clients have no use for them here.
_OF_GRPC = (
    "grpc-status",
    "grpc-message",
    "grpc-previous-rpc-attempts",
    "grpc-retry-pushback-ms",
    "grpc-internal-encoding-request",
    "lb-token",
)
# Read from trusted proxies in front, where there are any.
_OF_PROXIES = ("x-forwarded-for", "x-forwarded-proto")


def answered(settings: EdgeSettings) -> Mapping[str, str]:
    """What every answer carries unless it says otherwise itself: it is data, not to be rendered, framed or kept."""
    headers = {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-store",
    }
    if max_age_s := _hsts_s(settings):
        headers["strict-transport-security"] = f"max-age={max_age_s}; includeSubDomains"
    return headers


def _hsts_s(settings: EdgeSettings) -> int:
    if settings.hsts_s is not None or not settings.https:
        return settings.hsts_s or 0
    return _YEAR_S if settings.mesh.profile == "production" else _HOUR_S


def taken_away(settings: EdgeSettings) -> tuple[Sequence[str], Sequence[str]]:
    """Prefixes and names of headers removed from every request before anything reads them."""
    behind_proxies = settings.trusted_hops > 0
    return _OURS, (*_OF_GRPC, *(name for name in _POSING if not (behind_proxies and name in _OF_PROXIES)))


def deprecated(settings: EdgeSettings) -> Mapping[str, str]:
    """What answers at /api/rag say of it: a structured field's date (RFC 9745) and an HTTP date (RFC 8594)."""
    since, until = (
        datetime.combine(day, time(), UTC) for day in (settings.legacy_deprecated_on, settings.legacy_sunset_on)
    )
    return {"deprecation": f"@{int(since.timestamp())}", "sunset": format_datetime(until, usegmt=True)}
