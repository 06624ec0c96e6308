import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.tcp_proxy import Link, Proxy, proxies


@contextmanager
def echo() -> Iterator[str]:
    def serve(taken: socket.socket) -> None:
        with suppress(OSError), taken:
            while data := taken.recv(65536):
                taken.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=accept, daemon=True).start()
        yield "{}:{}".format(*listening.getsockname())
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with echo() as upstream, proxies({"echo": upstream}, latency_s=0.2) as made:
        yield made["echo"]


def connected(proxy: Proxy, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s)


def test_a_whole_link_carries_all_of_it_both_ways(proxy: Proxy) -> None:
    sent = bytes(range(256)) * 8192
    with connected(proxy) as link:
        threading.Thread(target=link.sendall, args=(sent,)).start()
        back = b""
        while len(back) < len(sent):
            back += link.recv(2**20)
    assert back == sent


def test_a_refused_link_ends_what_is_open_and_takes_nothing_new(proxy: Proxy) -> None:
    with connected(proxy) as link:
        link.sendall(b"a")
        assert link.recv(1) == b"a"
        proxy.become(Link.REFUSED)
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connected(proxy)
    proxy.become(Link.WHOLE)
    with connected(proxy) as link:
        link.sendall(b"b")
        assert link.recv(1) == b"b"


def test_a_black_hole_swallows_until_the_link_is_whole_again(proxy: Proxy) -> None:
    with connected(proxy, 0.2) as link:
        proxy.become(Link.BLACK_HOLE)
        link.sendall(b"late")
        with pytest.raises(TimeoutError):
            link.recv(4)
        proxy.become(Link.WHOLE)
        link.settimeout(10)
        assert link.recv(4) == b"late"


def test_a_slow_link_is_late_by_its_latency_and_keeps_the_order(proxy: Proxy) -> None:
    with connected(proxy) as link:
        proxy.become(Link.SLOW)
        began, back = time.monotonic(), b""
        link.sendall(b"one")
        while len(back) < 3:
            back += link.recv(3)
        assert back == b"one"
        assert time.monotonic() - began >= 0.2


def test_a_link_that_resets_does_so_to_old_and_new_connections(proxy: Proxy) -> None:
    with connected(proxy) as link:
        link.sendall(b"a")
        assert link.recv(1) == b"a"
        proxy.become(Link.RESET)
        with pytest.raises(ConnectionResetError):
            link.recv(1)
    # The reset may come while the caller still connects.
    with pytest.raises(ConnectionResetError), connected(proxy) as link:
        link.recv(1)
