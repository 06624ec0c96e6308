"""Uploads whose connection is cut, by our client and by plain HTTP: they go on, and nobody else can go on with them."""

import hashlib
import random
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ragweave import Client, RagweaveError
from ragweave.cli.console import edge_credentials
from tests.e2e.stack import PREFIX, TLS, Answer, Mesh

C = "uploads"
# Not text: its import ends at once.
CONTENT = random.Random(11).randbytes(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module", autouse=True)
def collections(mesh: Mesh) -> None:
    for tenant in ("default", "globex"):
        with mesh.client(tenant=tenant) as client:
            client.create_collection(C)


class CuttingProxy:
    """Passes on what clients send to a server, and cuts each of the first connections after so many bytes."""

    def __init__(self, target: tuple[str, int], cuts: list[int]) -> None:
        self._target = target
        self._cuts = cuts
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._threads: list[threading.Thread] = []
        self.port = self._listener.getsockname()[1]
        self.passed_on = 0

    @contextmanager
    def running(self) -> Iterator["CuttingProxy"]:
        self._begin(self._accept)
        try:
            yield self
        finally:
            _hang_up(self._listener)
            self._threads.pop(0).join()  # from now on there are no new ones
            _hang_up(*self._sockets)
            for thread in self._threads:
                thread.join()
            for each in self._sockets:
                each.close()

    def _begin(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                self._begin(self._pass_on, client, server, self._cuts.pop(0) if self._cuts else None)
                self._begin(_answer, server, client)

    def _pass_on(self, client: socket.socket, server: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while piece := client.recv(65536 if left is None else min(left, 65536)):
                server.sendall(piece)
                self.passed_on += len(piece)
                if left is not None and not (left := left - len(piece)):
                    break
        _hang_up(client, server)


def _answer(server: socket.socket, client: socket.socket) -> None:
    with suppress(OSError):
        while piece := server.recv(65536):
            client.sendall(piece)


def _hang_up(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def stored(mesh: Mesh, tenant: str = "default") -> bytes:
    folder = Path(mesh.settings["RAGWEAVE_DATA_DIR"], "blobs", tenant, SHA256[:2], SHA256[2:4])
    return (folder / SHA256).read_bytes()


@pytest.mark.skipif(TLS, reason="the certificate names no proxy")
def test_our_client_goes_on_where_it_was_cut_off_and_sends_little_twice(mesh: Mesh) -> None:
    places = random.Random(12)
    host, _, port = mesh.edge.rpartition(":")
    proxy = CuttingProxy((host, int(port)), [places.randrange(100_000, 900_000) for _ in range(8)])
    with (
        proxy.running(),
        Client(f"127.0.0.1:{proxy.port}", token=mesh.token(), credentials=edge_credentials(mesh.layout)) as client,
    ):
        job = client.upload(C, "a.bin", CONTENT, document_id="a")
        client.wait(job.name)
    assert stored(mesh) == CONTENT
    # What was on its way at a cut, in buffers of three processes, is lost with it.
    assert proxy.passed_on < 3 * len(CONTENT), proxy.passed_on


def posted(mesh: Mesh, request_id: str, content: bytes, tenant: str = "default", **query: Any) -> Answer:
    asked = urllib.parse.urlencode({"requestId": request_id, **query})
    path = f"{PREFIX}/collections/{C}/documents:upload?{asked}"
    return mesh.rest("POST", path, content, content_type="text/plain", token=mesh.token(tenant=tenant))


def asked(mesh: Mesh, request_id: str, tenant: str = "default") -> Answer:
    path = f"{PREFIX}/collections/{C}/documents:upload?requestId={request_id}"
    return mesh.rest("GET", path, token=mesh.token(tenant=tenant))


def cut_off(mesh: Mesh, request_id: str, content: bytes, announced: int) -> int:
    """Sends less than it announces, and hangs up; how much of it the mesh has kept."""
    host, _, port = mesh.edge.rpartition(":")
    path = f"{PREFIX}/collections/{C}/documents:upload?requestId={request_id}&sha256={SHA256}&filename={request_id}"
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {mesh.token()}\r\n"
        f"content-type: text/plain\r\ncontent-length: {announced}\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + content)
        while asked(mesh, request_id).status == 404:  # who hangs up at once takes back what is on its way
            time.sleep(0.05)
    answer = asked(mesh, request_id)
    assert answer.status == 200, answer
    return int(answer.body["receivedBytes"])


@pytest.mark.skipif(TLS, reason="speaks plain HTTP")
def test_plain_http_asks_how_much_has_come_and_sends_the_rest(mesh: Mesh) -> None:
    received = cut_off(mesh, "by-http", CONTENT[: 1 << 20], len(CONTENT))
    assert 0 < received <= 1 << 20

    for tenant, there in (("default", str(received)), ("globex", "0")):
        refused = posted(mesh, "by-http", b"x", tenant, offset=received + 1, sha256=SHA256)
        assert (refused.status, refused.body["code"]) == (400, 11), refused
        assert refused.body["details"][0]["metadata"] == {"received_bytes": there}
    assert asked(mesh, "by-http", "globex").status == 404

    done = posted(mesh, "by-http", CONTENT[received:], offset=received, sha256=SHA256, filename="by-http")
    assert done.status == 200, done
    assert asked(mesh, "by-http").status == 404
    again = posted(mesh, "by-http", CONTENT, sha256=SHA256, filename="by-http")
    assert (again.body["document"], again.body["job"]["name"]) == (done.body["document"], done.body["job"]["name"])


@pytest.mark.skipif(TLS, reason="speaks plain HTTP")
def test_a_file_that_is_not_what_was_announced_leaves_nothing(mesh: Mesh) -> None:
    received = cut_off(mesh, "wrong", CONTENT[: 1 << 20], len(CONTENT))
    refused = posted(mesh, "wrong", b"other bytes", offset=received, sha256=SHA256, filename="wrong")
    assert refused.status == 400
    found = hashlib.sha256(CONTENT[:received] + b"other bytes").hexdigest()
    assert SHA256 in refused.body["message"] and found in refused.body["message"]
    assert asked(mesh, "wrong").status == 404
    with mesh.client() as client, pytest.raises(RagweaveError, match="sha256"):
        client.upload(C, "wrong.bin", b"one", sha256="0" * 64)
