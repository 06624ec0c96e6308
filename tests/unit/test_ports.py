"""Ports of tests are each process's own."""

import socket
import subprocess
import sys
from pathlib import Path

from tests import ports


def test_a_port_is_free_given_once_and_never_one_the_kernel_gives_away() -> None:
    given = [ports.free_port() for _ in range(50)]
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert len(set(given)) == len(given)
    assert not [port for port in given if low <= port <= high]
    with socket.socket() as server:
        server.bind(("127.0.0.1", given[0]))


def test_a_port_of_this_process_is_no_others_even_before_anybody_listens() -> None:
    port = ports.free_port()
    code = f"from tests import ports; print(ports._reserve({port}))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"
