"""Which network addresses the mesh may reach on a caller's behalf: public ones, whatever way they are written."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")

# Not everything that is nobody's is told by `is_global`, and what it tells has changed between Python's releases
# (CVE-2024-4032): IANA's special-purpose registries, in full.
_SPECIAL: tuple[Network, ...] = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "100:0:0:1::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "2620:4f:8000::/48",
        "3fff::/20",
        "5f00::/16",
        "fc00::/7",
        "fe80::/10",
        "fec0::/10",
        "ff00::/8",
    )
)
# The rest of IPv6 is not assigned to anyone (RFC 3513, section 2.4).
_ASSIGNED = ip_network("2000::/3")


def is_public(address: str) -> bool:
    """Whether an IP address, as the system wrote it, is one that anybody on the internet may have.

    An IPv6 address that stands for an IPv4 one (mapped, translated, 6to4, Teredo) is refused: the public IPv4 address
    itself can be used. So is one with a zone.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and (parsed.scope_id or parsed not in _ASSIGNED):
        return False
    return parsed.is_global and not any(parsed in network for network in _SPECIAL if network.version == parsed.version)


class Reachable:
    """Public addresses, and those an operator lists: nothing else is connected to.

    Args:
        listed: Networks ("10.1.0.0/16", "192.168.7.9") and host names ("wiki.corp") that may be reached though they are
            not public. A name stands for whatever it resolves to, link-local addresses excepted: metadata services live
            there, so they are reached only where their network is listed.

    Raises:
        ValueError: an entry is neither; says which.
    """

    def __init__(self, listed: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for entry in listed:
            try:
                self._networks.append(ip_network(entry))
            except ValueError:
                self._hosts.add(_host_name(entry))

    def allows(self, host: str, address: str) -> bool:
        """Whether `address`, which `host` resolved to, may be connected to."""
        if is_public(address):
            return True
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        if any(parsed in network for network in self._networks if network.version == parsed.version):
            return True
        return _bare(host) in self._hosts and not (parsed.is_link_local or parsed.is_multicast)


def _host_name(entry: str) -> str:
    name = _bare(entry)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")) or name[-1:].isdigit():
        raise ValueError(f"{entry[:80]!r} is neither a network nor a host name")
    return name


def _bare(host: str) -> str:
    return host.lower().removesuffix(".")
