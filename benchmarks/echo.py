"""The limit of any Python service behind the edge: a bare grpc.aio server that answers every search with one message.

`python -m benchmarks.echo PORT` reads that message, a SearchResponse, from stdin. It has no interceptors, looks at
nothing of a request but what protobuf makes it parse, and says it is healthy, as the edge wants to hear.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from ragweave.v1 import search_pb2
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceServicer, add_RetrievalServiceServicer_to_server
from tests.e2e.stack import ROOT
from tests.ports import free_port


@dataclass(frozen=True)
class Echo:
    """One that runs."""

    port: int
    pid: int


@contextmanager
def running_echo(answer: search_pb2.SearchResponse) -> Iterator[Echo]:
    """An echo in a process of its own, ready when the block starts."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.echo", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin and process.stdout
            process.stdin.write(answer.SerializeToString())
            process.stdin.close()
            if not process.stdout.readline():
                raise RuntimeError("the echo did not start")
            yield Echo(port, process.pid)
        finally:
            process.terminate()


class _Servicer(RetrievalServiceServicer):
    def __init__(self, answer: search_pb2.SearchResponse) -> None:
        self._answer = answer

    async def Search(
        self, request: search_pb2.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> search_pb2.SearchResponse:
        return self._answer


async def _serve(port: int, answer: search_pb2.SearchResponse) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_RetrievalServiceServicer_to_server(_Servicer(answer), server)
    healthy = health.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


def main() -> None:
    """Serves until terminated."""
    asyncio.run(_serve(int(sys.argv[1]), search_pb2.SearchResponse.FromString(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
