"""A real HTTP server that reranks as Cohere's and Text Embeddings Inference's do, and fails as it is told."""

import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_BATCH = 32  # of TEI
MAX_WORDS = 32


@dataclass
class RerankServer:
    """What a server was asked, and what it is to do.

    Attributes:
        url: Where it listens.
        asked: Bodies, in order.
        headers: Headers of each.
        connections: How often it was connected to.
        failures: Statuses and headers to answer with first, one each.
        answers: Bodies to answer with instead of scores, one each.
        silent: While set, it does not answer.
        delay_s: Seconds before it answers.
    """

    url: str = ""
    asked: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)
    silent: threading.Event = field(default_factory=threading.Event)
    delay_s: float = 0.0
    released: threading.Event = field(default_factory=threading.Event)

    @property
    def host(self) -> str:
        return self.url.removeprefix("http://")

    def told(self, path: str, question: Any) -> tuple[int, Any]:
        """Status and body for a question."""
        if path == "/cohere/rerank":
            scores = [_overlap(question["query"], text) for text in question["documents"]]
            ranked = sorted(range(len(scores)), key=lambda index: -scores[index])[: question["top_n"]]
            results = [{"index": index, "relevance_score": scores[index]} for index in ranked]
            return 200, {"id": "1", "results": results, "usage": {"total_tokens": 7}}
        if path == "/tei/rerank":
            texts = question["texts"]
            if len(texts) > MAX_BATCH:
                return 422, {"error": f"batch size {len(texts)} > maximum allowed batch size {MAX_BATCH}"}
            if not question["truncate"] and any(len(text.split()) > MAX_WORDS for text in texts):
                return 413, {"error": "`inputs` must have less than 32 tokens", "error_type": "Validation"}
            scores = [_overlap(question["query"], text) for text in texts]
            ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
            return 200, [{"index": index, "score": scores[index]} for index in ranked]
        return 404, {"error": "no such path"}


def _overlap(query: str, text: str) -> float:
    words = text.lower().split()[:MAX_WORDS]
    return 1 / (1 + math.exp(len(words) / 100 - sum(word in query.lower().split() for word in words)))


@contextmanager
def rerank_server() -> Iterator[RerankServer]:
    """The server, on a free port of loopback."""
    state = RerankServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            state.connections += 1

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.asked.append(question)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            time.sleep(state.delay_s)
            if state.silent.is_set():
                state.released.wait(60)
                self.close_connection = True
                return
            if state.failures:
                status, headers = state.failures.pop(0)
                self._answer(status, b'{"error": "sw0rdfish"}', headers)
            elif state.answers:
                self._answer(200, state.answers.pop(0), {})
            else:
                status, answer = state.told(self.path, question)
                self._answer(status, json.dumps(answer).encode(), {})

        def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            """Whoever asked has left."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield state
        finally:
            state.released.set()
            server.shutdown()
            serving.join()
