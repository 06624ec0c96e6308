"""Searches given up while the last hop has them: how soon it hears of that. Run by `make trace-test`.

The engine of the vector store is stopped, so that a search stays with it; the caller then leaves, and the span of the
store ends when retrieval has given the question up. The time between the two is what a cancellation takes from the
client to the last hop, with tracing on. What the engine had not begun, it never does.
"""

import json
import os
import secrets
import signal
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Final

from tests.e2e.stack import PATIENCE_S, PREFIX, Mesh
from tests.spans import Collector, Told, collecting

# Only what a caller asks to have recorded is: the other tests of a mesh run as they would without a collector.
ON_REQUEST: Final = {"RAGWEAVE_TRACE_SAMPLE_RATIO": "0", "RAGWEAVE_TRACE_CALLERS": "true"}
EDGE, RETRIEVAL, EMBEDDING = "ragweave-edge", "ragweave-retrieval", "ragweave-embedding"
SEARCH: Final = "ragweave.v1.RetrievalService/Search"
EMBED: Final = "ragweave.v1.EmbeddingService/Embed"
STORE: Final = "vector store"
# What issue 6 allows.
ALLOWED_S: Final = 0.100


def new_trace() -> tuple[str, dict[str, str]]:
    """A trace id that nobody else has, and the headers that have a call recorded under it."""
    trace_id = secrets.token_hex(16)
    return trace_id, {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}


@contextmanager
def stopped_engine(mesh: Mesh, collection: str) -> Iterator[None]:
    """The processes of the embedded vector store answer nothing inside the block; after it searches are answered."""
    retrieval = mesh.pid("retrieval")
    pids = [pid for pid in _children(retrieval) if b"edge_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert pids, "retrieval has no engine"
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        mesh.wait_ready()
        _searchable(mesh, collection)


def abandoned_search(mesh: Mesh, collector: Collector, collection: str) -> tuple[str, float]:
    """Begins a search over REST and leaves once the store has it; its trace id, and the time it left at."""
    trace_id, headers = new_trace()
    body = json.dumps({"query": f"words {trace_id}", "collection": collection, "cacheControl": "BYPASS"}).encode()
    lines = [f"POST {PREFIX}/search HTTP/1.1", f"host: {mesh.edge}", "content-type: application/json"]
    lines += [f"authorization: Bearer {mesh.token()}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    host, _, port = mesh.edge.rpartition(":")
    with _connected(mesh, host, int(port)) as caller:
        caller.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        # The store is asked as soon as retrieval has the query's vector.
        asked = (trace_id, RETRIEVAL, EMBED)
        collector.until(lambda spans: any((each.trace_id, each.service, each.name) == asked for each in spans))
        left_s = time.time()
    return trace_id, left_s


def given_up(collector: Collector, trace_id: str) -> Told:
    """The store's part of a trace, once it has ended and all its parents are known."""

    def store(spans: list[Told]) -> list[Told]:
        return [each for each in spans if each.trace_id == trace_id and each.name == STORE]

    collector.until(lambda spans: bool(store(spans)))
    return store(collector.spans)[0]


def prepared(mesh: Mesh, collection: str) -> None:
    """Makes a collection that searches find something in."""
    assert mesh.rest("POST", f"{PREFIX}/collections?collectionId={collection}", {}).status == 200
    with mesh.client() as client:
        client.wait(client.import_texts(collection, [{"document_id": "d", "text": "words of a document"}]).name)


def _children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _connected(mesh: Mesh, host: str, port: int) -> socket.socket:
    plain = socket.create_connection((host, port), timeout=PATIENCE_S)
    if not mesh.layout.https:
        return plain
    trust = ssl.create_default_context(cafile=mesh.layout.edge_authority)
    return trust.wrap_socket(plain, server_hostname=host)


def _searchable(mesh: Mesh, collection: str) -> None:
    """Waits until no breaker and no health check leaves the store alone any more."""
    until = time.monotonic() + PATIENCE_S
    query = {"query": "words", "collection": collection, "cacheControl": "BYPASS"}
    while mesh.rest("POST", f"{PREFIX}/search", query).status != 200:
        assert time.monotonic() < until
        time.sleep(0.1)


def main(searches: int = 30) -> None:
    """Prints how long the last hop took to hear of it; ends with 1 where that was longer than allowed."""
    with tempfile.TemporaryDirectory() as folder, collecting() as (collector, endpoint):
        mesh = Mesh(Path(folder), RAGWEAVE_OTLP_ENDPOINT=endpoint, **ON_REQUEST)
        mesh.start()
        try:
            prepared(mesh, "traced")
            took_s = []
            for _ in range(searches):
                with stopped_engine(mesh, "traced"):
                    trace_id, left_s = abandoned_search(mesh, collector, "traced")
                    part = given_up(collector, trace_id)
                assert part.attributes["error.type"] == "CANCELLED", part
                took_s.append(part.ended_s - left_s)
        finally:
            mesh.stop()
    took_ms = sorted(each * 1000 for each in took_s)
    print(f"{len(took_ms)} searches given up: median {median(took_ms):.1f} ms, longest {took_ms[-1]:.1f} ms")
    sys.exit(took_ms[-1] > ALLOWED_S * 1000)


if __name__ == "__main__":
    main()
