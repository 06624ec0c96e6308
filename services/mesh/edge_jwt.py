"""The edge's JWT filter, in the form Envoy takes it from a file while it runs (ECDS): keys change without a restart."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ragweave.contract import Method
from services.mesh.edge_clusters import DEFAULT_PORTS
from services.mesh.edge_keys import pattern_of
from services.mesh.edge_run import with_keys
from services.mesh.edge_settings import EdgeSettings

FILTER = "envoy.filters.http.jwt_authn"
_SCHEMES = ("Bearer", "bearer", "BEARER")
_TYPES = "type.googleapis.com/envoy"


def jwt_filter(
    settings: EdgeSettings, methods: Iterable[Method], open_services: Iterable[str], pages: Iterable[str]
) -> Mapping[str, Any]:
    """The filter as a discovery resource, with the keys of a JWKS file in it, or the URL Envoy fetches them from.

    Raises:
        OSError: The JWKS file cannot be read.
        ValueError: It holds no public key.
    """
    anyone = {"requirements": [{"provider_name": "users"}, {"allow_missing": {}}]}
    config: Mapping[str, Any] = {
        "resources": [
            {
                "@type": f"{_TYPES}.config.core.v3.TypedExtensionConfig",
                "name": FILTER,
                "typed_config": {
                    "@type": f"{_TYPES}.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
                    "bypass_cors_preflight": True,
                    "providers": {"users": _provider(settings)},
                    "requirement_map": {
                        # No token passes, a bad one does not.
                        "optional": {"requires_any": anyone},
                        "needed": {"provider_name": "users"},
                    },
                    "rules": [*_pages(pages), *_rules(methods, open_services, anonymous=settings.mesh.anonymous)],
                },
            }
        ]
    }
    source = key_file(settings)
    return with_keys(config, source.read_text("utf-8")) if source else config


def key_file(settings: EdgeSettings) -> Path | None:
    """The file the keys of user tokens are read from; None where they are at a URL."""
    jwks = settings.mesh.jwks
    return None if urlsplit(jwks).scheme in DEFAULT_PORTS else Path(jwks).absolute()


def _provider(settings: EdgeSettings) -> dict[str, Any]:
    mesh = settings.mesh
    keys = {
        "remote_jwks": {
            "http_uri": {"uri": mesh.jwks, "cluster": "jwks", "timeout": "5s"},
            "cache_duration": f"{mesh.jwks_cache_s}s",
            # Fetched ahead of need; keys fetched earlier serve on while the URL is down.
            "async_fetch": {"failed_refetch_duration": "1s"},
            "retry_policy": {"num_retries": 3},
        }
    }
    return {
        "issuer": mesh.issuer,
        "audiences": [mesh.audience],
        # The scheme's usual spellings; request.lua refuses others.
        "from_headers": [{"name": "authorization", "value_prefix": f"{each} "} for each in _SCHEMES],
        "require_expiration": True,
        "clock_skew_seconds": mesh.clock_skew_s,
        "forward": True,  # services verify it again
        "payload_in_metadata": "jwt",
        "normalize_payload_in_metadata": {"space_delimited_claims": ["scope"]},
        "jwt_cache_config": {"jwt_cache_size": 1000},
        **({} if key_file(settings) else keys),
    }


def _pages(paths: Iterable[str]) -> Iterable[dict[str, Any]]:
    """Nobody is asked who they are, and no token is verified: browsers load pages without one."""
    for path in paths:
        yield {"match": {"path_separated_prefix": path}}


def _rules(methods: Iterable[Method], open_services: Iterable[str], *, anonymous: bool) -> Iterable[dict[str, Any]]:
    """The first that matches counts; paths are those callers send, REST's included. The last needs a token."""
    for service in open_services:
        yield {"match": {"prefix": f"/{service}/"}, "requirement_name": "optional"}
    for method in methods:
        if method.open or (method.public_collections and anonymous):
            yield {"match": {"path": method.path}, "requirement_name": "optional"}
            for binding in method.http:
                verb = {"name": ":method", "string_match": {"exact": binding.verb}}
                path = {"safe_regex": {"regex": pattern_of(binding.template)}, "headers": [verb]}
                yield {"match": path, "requirement_name": "optional"}
    yield {"match": {"prefix": "/"}, "requirement_name": "needed"}
