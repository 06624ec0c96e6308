"""What may be wrong with a dependency: stopped, gone, or there and silent."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SHUT_RDWR, create_server, socket
from typing import Final

from ragweave import Client
from ragweave.local.supervisor import read_state, supervisor_pid
from ragweave.v1 import collection_service_pb2
from tests.e2e.stack import PATIENCE_S, Mesh
from tests.ports import free_port

RERANKER: Final = "hole"
GONE_RERANKER: Final = "gone"
SMALL_GRAPHS: Final = {"RAGWEAVE_RETRIEVAL_BUILD_THRESHOLD": "100"}
"""Settings of a mesh in which a collection of more than 100 chunks is served by an engine of its own."""


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process takes what it is sent and does nothing, inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def black_hole() -> Iterator[str]:
    """`host:port` that takes connections, and whatever is sent on them, and says nothing."""
    with create_server(("127.0.0.1", 0), backlog=1024) as hole:
        taken: list[socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(hole.accept()[0])
                except OSError:  # closed
                    return

        threading.Thread(target=take, daemon=True).start()
        yield "{}:{}".format(*hole.getsockname())
        hole.shutdown(SHUT_RDWR)
        for each in taken:
            each.close()


def reranking_into(hole: str) -> dict[str, str]:
    """Settings of a mesh whose reranking models are at that address, and where nobody listens."""
    models = {RERANKER: hole, GONE_RERANKER: f"127.0.0.1:{free_port()}"}
    return {"RAGWEAVE_EMBEDDING_RERANK_MODELS": ",".join(f"{name}=tei+http://{at}" for name, at in models.items())}


@contextmanager
def down(mesh: Mesh, name: str) -> Iterator[None]:
    """The process is killed, and nobody starts it again inside the block; then all serve again."""
    with stopped(int(read_state(mesh.layout)["guard"])), stopped(supervisor_pid(mesh.layout)):
        mesh.kill(name)
        yield
    mesh.wait_ready()


def wait_indexed(client: Client, collection: str) -> None:
    """Until the collection has an index, and with it an engine of its own."""
    asked = collection_service_pb2.GetCollectionStatsRequest(name=f"collections/{collection}")
    until = time.monotonic() + PATIENCE_S
    while not client.collections.GetCollectionStats(asked).indexed_chunks:
        assert time.monotonic() < until
        time.sleep(0.05)


def engines(mesh: Mesh) -> list[int]:
    """Pids of the vector store's engines, the oldest first."""
    children = Path(f"/proc/{mesh.pid('retrieval')}/task").glob("*/children")
    pids = sorted(int(pid) for each in children for pid in each.read_text().split())
    return [pid for pid in pids if b"edge_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
