"""What the edge's request check and rate limits cost, of a bare echo: `python -m benchmarks.edge [--rounds N]`.

One echo (two bare gRPC servers that answer every search with the same bytes) behind four Envoys that differ only in
what is measured: neither, the request check (request.lua), the rate limits, both. Every round loads each in turn with
the same REST search over the same number of connections, in another order each time, and the medians of the rounds are
compared; an idle Envoy costs nothing. Beside the throughput, which suffers from whatever else the machine does, stands
the CPU time a request takes, which hardly does. The load comes from one asyncio process that only writes and counts.
"""

import argparse
import asyncio
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health

from ragweave.v1 import search_pb2
from services.mesh.edge import OWNERS, command, render
from services.mesh.edge_settings import EdgeSettings
from tests.mesh.edge_stack import GENEROUS, free_port
from tests.mesh.harness import World

_SEARCH = "/ragweave.v1.RetrievalService/Search"
_BODY = (
    b'{"query": "how do I catch several exception types", "collection": "collections/python-reference", "topK": 10, '
    b'"filter": "metadata.version = \\"3.11\\"", "highlight": true, "fusion": {"rrf": {"k": 60}}}'
)
# The variants: is a request checked, is it counted.
_VARIANTS = {"bare": (False, False), "check": (True, False), "limits": (False, True), "both": (True, True)}
_SERVERS = 2


@dataclass
class Variant:
    """An Envoy, and what was measured of it, round by round."""

    port: int
    pid: int
    per_s: list[float] = field(default_factory=list)
    envoy_us: list[float] = field(default_factory=list)
    others_us: list[float] = field(default_factory=list)


class Connection(asyncio.Protocol):
    """Sends one request after another, and counts the answers that are 200."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._got = b""
        self.answered = 0
        self.failed: bytes | None = None
        self.going = True
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self._got.find(b"content-length: ", 0, head) + len(b"content-length: ")
        length = int(self._got[at : self._got.find(b"\r", at)])
        if len(self._got) < head + 4 + length:
            return
        if not self._got.startswith(b"HTTP/1.1 200"):
            self.failed, self.going = self._got, False
        self.answered += 1
        self._got = b""
        if self.going and self._transport:
            self._transport.write(self._request)

    def close(self) -> None:
        if self._transport:
            self._transport.close()


async def load(port: int, request: bytes, connections: int, seconds: float) -> tuple[int, float]:
    """Answers, and seconds they took.

    Raises:
        RuntimeError: An answer was not 200; carries it.
    """
    loop = asyncio.get_running_loop()
    made = [
        (await loop.create_connection(lambda: Connection(request), "127.0.0.1", port))[1] for _ in range(connections)
    ]
    before, began = sum(each.answered for each in made), time.perf_counter()
    await asyncio.sleep(seconds)
    answered, took = sum(each.answered for each in made) - before, time.perf_counter() - began
    for each in made:
        each.close()
        if each.failed:
            raise RuntimeError(each.failed.decode(errors="replace"))
    return answered, took


async def _echo(port: int) -> None:
    answer = search_pb2.SearchResponse(hits=[search_pb2.Hit(text="an answer", score=0.5)], total_size=1)
    packed = answer.SerializeToString()

    async def search(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        return packed

    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    service, _, method = _SEARCH[1:].partition("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(search)})
    server.add_generic_rpc_handlers((handler,))
    servicer = health.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def _serve(port: int) -> None:
    asyncio.run(_echo(port))


@asynccontextmanager
async def _envoy(
    world: World, folder: Path, ports: Sequence[int], *, check: bool, limits: bool
) -> AsyncIterator[Variant]:
    replicas = tuple(f"127.0.0.1:{port}" for port in ports)
    settings = EdgeSettings(
        mesh=world.mesh,
        port=free_port(),
        admin_port=free_port(),
        access_log=str(folder / "access.log"),
        rate_limiting=limits,
        rate_limits=GENEROUS,
        **{f"{owner}_endpoints": replicas for owner in set(OWNERS.values())},  # type: ignore[arg-type]
    )
    config = render(settings, folder)
    if not check:
        config.write_text(yaml.safe_dump(_without(yaml.safe_load(config.read_text()), "envoy.filters.http.lua")))
    with (folder / "envoy.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command(settings, folder), stdout=log, stderr=log)
    try:
        yield Variant(settings.port, process.pid)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def _without(config: dict[str, Any], name: str) -> dict[str, Any]:
    for listener in config["static_resources"]["listeners"]:
        for chain in listener["filter_chains"]:
            manager = chain["filters"][0]["typed_config"]
            kept = [each for each in manager["http_filters"] if each["name"] != name]
            assert len(kept) == len(manager["http_filters"]) - 1
            manager["http_filters"] = kept
    return config


def _cpu_s(pid: int) -> float:
    """Seconds of CPU a process has used (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measure(arguments: argparse.Namespace) -> dict[str, Variant]:
    with tempfile.TemporaryDirectory() as temporary:
        world = World.in_folder(Path(temporary))
        token = world.token(roles=["admin"], tier="pro")
        head = f"POST /api/v1/rag/search HTTP/1.1\r\nhost: edge\r\nauthorization: Bearer {token}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(_BODY)}\r\n\r\n"
        request, ports = head.encode() + _BODY, [free_port() for _ in range(_SERVERS)]
        servers = [multiprocessing.get_context("spawn").Process(target=_serve, args=(port,)) for port in ports]
        for server in servers:
            server.start()
        try:
            async with AsyncExitStack() as stack:
                variants = {}
                for name, (check, limits) in _VARIANTS.items():
                    folder = Path(temporary) / name
                    folder.mkdir()
                    envoy = _envoy(world, folder, ports, check=check, limits=limits)
                    variants[name] = await stack.enter_async_context(envoy)
                for variant in variants.values():
                    await _warm(variant, request)
                for number in range(1, arguments.rounds + 1):
                    for name in random.sample(list(variants), len(variants)):
                        await _round(variants[name], [os.getpid(), *(each.pid for each in servers)], request, arguments)
                    rates = ", ".join(f"{name} {each.per_s[-1]:,.0f}/s" for name, each in variants.items())
                    print(f"round {number}: {rates}", flush=True)
                return variants
        finally:
            for server in servers:
                server.terminate()
                server.join()


async def _round(variant: Variant, others: Sequence[int], request: bytes, arguments: argparse.Namespace) -> None:
    envoy, rest = _cpu_s(variant.pid), sum(map(_cpu_s, others))
    answered, took = await load(variant.port, request, arguments.connections, arguments.seconds)
    variant.per_s.append(answered / took)
    variant.envoy_us.append((_cpu_s(variant.pid) - envoy) / answered * 1e6)
    variant.others_us.append((sum(map(_cpu_s, others)) - rest) / answered * 1e6)


async def _warm(variant: Variant, request: bytes) -> None:
    """Loads an Envoy until it answers, and a second more."""
    async with asyncio.timeout(30):
        while True:
            try:
                await load(variant.port, request, 4, 1.0)
                return
            except (OSError, RuntimeError, ZeroDivisionError):
                await asyncio.sleep(0.1)


def main() -> None:
    """Prints a table: requests a second against the bare variant's, and CPU time a request."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load for each variant in each round")
    parser.add_argument("--connections", type=int, default=50)
    measured = asyncio.run(_measure(parser.parse_args()))
    bare = measured["bare"]
    spent = statistics.median(bare.envoy_us) + statistics.median(bare.others_us)
    print(f"\nCPU a request, bare: {spent:.0f} us, of which Envoy {statistics.median(bare.envoy_us):.0f} us\n")
    print("| variant | requests/s | of bare | Envoy's CPU a request | more than bare, of all CPU |")
    print("| --- | --- | --- | --- | --- |")
    for name, each in measured.items():
        ratio = statistics.median(mine / its for mine, its in zip(each.per_s, bare.per_s, strict=True))
        more = statistics.median(mine - its for mine, its in zip(each.envoy_us, bare.envoy_us, strict=True))
        rate, cpu = statistics.median(each.per_s), statistics.median(each.envoy_us)
        print(f"| {name} | {rate:,.0f} | {ratio:.1%} | {cpu:.0f} us | {more:+.0f} us, {more / spent:.1%} |")


if __name__ == "__main__":
    main()
