"""A Redis-protocol server that keeps what it acknowledged; it can be killed and started again."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragweave.local.processes import store_binary


class Store:
    """The server of one folder, on a unix socket, syncing every write."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.socket = folder / "s"
        self.url = f"unix://{self.socket}"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "dir": str(self._folder),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._server = subprocess.Popen([store_binary(), *arguments], stdout=subprocess.DEVNULL)
        while self._server.poll() is None:
            with socket.socket(socket.AF_UNIX) as client:
                if client.connect_ex(str(self.socket)) == 0:
                    client.sendall(b"PING\r\n")
                    if client.recv(7) == b"+PONG\r\n":
                        return
            time.sleep(0.01)
        raise RuntimeError(f"the server ended with {self._server.returncode}")

    def kill(self) -> None:
        if self._server:
            self._server.kill()
            self._server.wait()
            self._server = None


@contextmanager
def store_in(folder: Path) -> Iterator[Store]:
    """The server, running inside the block."""
    store = Store(folder)
    store.start()
    try:
        yield store
    finally:
        store.kill()
