"""Ports for tests to listen on.

The kernel gives no port to two who ask for any, but takes back what is only asked for and closed. These lie outside the
range it gives away from, and each is this process's own until it ends: nobody comes between choosing and binding.
"""

import asyncio
import random
import socket
from pathlib import Path

_LOWEST, _BEYOND = 10_000, 2**16
_reserved: list[socket.socket] = []


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other test process gets."""
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [*range(_LOWEST, low), *range(max(high + 1, _LOWEST), _BEYOND)]
    first = random.randrange(len(outside))
    for port in outside[first:] + outside[:first]:
        if _reserve(port) and _is_free(port):
            return port
    raise RuntimeError("no port is free")


def _reserve(port: int) -> bool:
    """Takes the abstract socket that stands for the port; the kernel takes it back when this process ends (unix(7))."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0ragweave-test-port-{port}")
    except OSError:
        mark.close()
        return False
    _reserved.append(mark)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


async def listens(port: int) -> bool:
    """Whether somebody accepts connections here."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
