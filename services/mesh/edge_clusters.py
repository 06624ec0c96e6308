"""gRPC targets and URLs as Envoy's clusters."""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}
_OTLP_PORT = 4317
_SCHEME = re.compile(r"^(?:dns:(?:///)?|ipv4:|ipv6:)")


@dataclass(frozen=True)
class Cluster:
    """Endpoints as Envoy takes them: STATIC for addresses, STRICT_DNS as soon as one is a name."""

    type: str
    addresses: tuple[Mapping[str, Any], ...]


def cluster_of(endpoints: Sequence[str]) -> Cluster:
    """Endpoints as a cluster; `host:port`, `[v6]:port` or `unix:/path`, with or without gRPC's dns, ipv4, ipv6 scheme.

    Raises:
        ValueError: An endpoint has no port, or one out of range; names it.
    """
    addresses = tuple(_address(endpoint.strip()) for endpoint in endpoints)
    named = any("socket_address" in each and not is_ip(each["socket_address"]["address"]) for each in addresses)
    return Cluster("STRICT_DNS" if named else "STATIC", addresses)


def _address(endpoint: str) -> Mapping[str, Any]:
    if endpoint.startswith("unix:"):
        return {"pipe": {"path": endpoint.removeprefix("unix:").replace("///", "/", 1)}}
    host, _, port = _SCHEME.sub("", endpoint).rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{endpoint}: an endpoint is host:port")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def host_of(endpoint: str) -> str:
    """The host of an endpoint, as `cluster_of` takes them; "localhost" for a unix socket."""
    address = _address(endpoint.strip())
    return str(address["socket_address"]["address"]) if "socket_address" in address else "localhost"


def is_ip(host: str) -> bool:
    """Whether a host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def authority_of(url: str) -> str:
    """host:port of a URL; OTLP's port where neither the URL nor its scheme says one."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or DEFAULT_PORTS.get(parts.scheme, _OTLP_PORT)}"
