"""A process of the mesh from outside: ready, asked, drained, refused a port."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ragweave import contract
from ragweave.local.supervisor import start_ticks
from tests.mesh.harness import World
from tests.mesh.kinds import KINDS, Scripted, add_scripted, responses_of
from tests.spans import collecting

ROOT = Path(__file__).parents[2]
GRPCURL = Path(sys.executable).parent / "grpcurl"
GET = KINDS[0]


class Process:
    """A started process, its log lines as they come, its standard output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lines: list[dict[str, Any]] = []
        assert process.stdout is not None and process.stderr is not None
        self.stdout, self._stderr = process.stdout, process.stderr

    async def logged(self, event: str) -> dict[str, Any]:
        """The next line of this event. Every line must be JSON."""
        while line := await self._stderr.readline():
            self.lines.append(json.loads(line))
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"ended without logging {event}: {self.lines}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    async def ended(self) -> tuple[int, str, str]:
        """Exit code, what was left on standard output, what was left on standard error."""
        out, err = await self.stdout.read(), await self._stderr.read()
        return await self._process.wait(), out.decode(), err.decode()


@asynccontextmanager
async def process(
    world: World, *arguments: str, module: str = "tests.mesh.served", **environment: str
) -> AsyncIterator[Process]:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAGWEAVE_")},
        "RAGWEAVE_DATA_DIR": str(world.mesh.data_dir),
        "RAGWEAVE_REDIS_URL": world.mesh.redis_url,
        "RAGWEAVE_DRAIN_S": "0.1",
        **environment,
    }
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        cwd=ROOT,
        env=env,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Process(started)
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()


async def test_a_stopped_process_says_so_ends_its_calls_and_closes_what_it_opened(world: World) -> None:
    async with process(world, "scripted") as served:
        port = (await served.logged("serving"))["port"]
        async with world.channel(port) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            call = asyncio.create_task(responses_of(GET.start(channel, metadata=world.bearer(roles=["reader"]))))
            assert await served.stdout.readline() == b"handling\n"
            served.signal(signal.SIGTERM)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            assert await call
            watch.cancel()
        code, out, err = await served.ended()
    assert (code, out) == (0, "closed\n")
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["draining", "call", "stopped"]


async def test_a_second_signal_ends_the_process_at_once(world: World) -> None:
    async with process(world, "scripted", RAGWEAVE_DRAIN_S="60") as served:
        await served.logged("serving")
        served.signal(signal.SIGTERM)
        await served.logged("draining")
        served.signal(signal.SIGTERM)
        assert (await served.ended())[0] == -signal.SIGTERM


async def test_a_taken_port_is_named_with_what_to_set(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process(world, "scripted", RAGWEAVE_SCRIPTED_PORT=str(port)) as served:
            code, out, err = await served.ended()
    assert (code, out) == (1, "closed\n")
    assert err.splitlines()[-1] == f"port {port} (scripted) is taken; set RAGWEAVE_SCRIPTED_PORT"
    assert "Traceback" not in err


async def test_two_servers_never_share_a_port(world: World) -> None:
    async with process(world, "scripted") as first:
        port = (await first.logged("serving"))["port"]
        async with process(world, "scripted", RAGWEAVE_SCRIPTED_PORT=str(port)) as second:
            assert (await second.ended())[0] == 1


async def test_a_successor_lets_callers_wait_while_its_predecessor_ends(world: World, free_port: int) -> None:
    given = {"RAGWEAVE_SCRIPTED_PORT": str(free_port), "RAGWEAVE_SCRIPTED_TAKES_S": "1.5"}
    asked = {"metadata": world.bearer(roles=["reader"]), "timeout": 60}
    async with process(world, "scripted", **given) as first, world.channel(free_port) as channel:
        await first.logged("serving")
        begun = asyncio.create_task(responses_of(GET.start(channel, **asked)))
        assert await first.stdout.readline() == b"handling\n"
        follows = {"RAGWEAVE_PREDECESSOR": f"{first.pid}:{start_ticks(first.pid)}", "RAGWEAVE_TAKES_OVER": "on"}
        async with process(world, "scripted", **given, **follows) as second:
            while channel.get_state() is grpc.ChannelConnectivity.READY:
                await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
            # The predecessor listens no more, and has not ended; its successor listens, and has not begun.
            waiting = asyncio.create_task(responses_of(GET.start(channel, wait_for_ready=True, **asked)))
            assert await begun
            code, out, err = await first.ended()
            assert (code, out) == (0, "closed\n")
            assert '"handed_over": true' in err
            assert await waiting
            assert await second.stdout.readline() == b"handling\n"
            second.signal(signal.SIGTERM)
            assert (await second.ended())[0] == 0


async def test_a_taken_metrics_port_is_named_too(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with process(world, "scripted", RAGWEAVE_SCRIPTED_METRICS_PORT=str(port)) as served:
            code, _, err = await served.ended()
    assert code == 1
    assert f"port {port} (metrics of scripted) is taken; set RAGWEAVE_SCRIPTED_METRICS_PORT" in err


async def test_metrics_are_exposed_where_a_port_is_set(world: World, free_port: int) -> None:
    async with process(world, "scripted", RAGWEAVE_SCRIPTED_METRICS_PORT=str(free_port)) as served:
        port = (await served.logged("serving"))["port"]
        async with world.channel(port) as channel:
            await responses_of(GET.start(channel, metadata=world.bearer(roles=["reader"])))
        url = f"http://127.0.0.1:{free_port}/metrics"
        await served.logged("call")
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert f'ragweave_rpc_total{{code="OK",method="{GET.path}"}} 1.0' in text


async def test_spans_reach_the_collector_before_the_process_ends(world: World) -> None:
    with collecting() as (collector, endpoint):
        async with process(world, "scripted", RAGWEAVE_OTLP_ENDPOINT=endpoint) as served:
            port = (await served.logged("serving"))["port"]
            async with world.channel(port) as channel:
                await responses_of(GET.start(channel, metadata=world.bearer(roles=["reader"])))
            served.signal(signal.SIGTERM)
            assert (await served.ended())[0] == 0
    (span,) = collector.spans
    assert (span.service, span.name, span.kind) == ("ragweave-scripted", GET.path[1:], "SERVER")
    assert span.attributes["rpc.response.status_code"] == "OK"
    assert span.attributes["ragweave.tenant"] == "acme"


async def test_a_worker_puts_its_work_down_when_told_to_stop(world: World) -> None:
    async with process(world, "worker") as worker:
        assert await worker.stdout.readline() == b"working\n"
        worker.signal(signal.SIGTERM)
        code, out, _ = await worker.ended()
    assert (code, out) == (0, "put down\nclosed\n")


async def test_health_answers_for_the_server_and_each_of_its_services(world: World) -> None:
    async with world.serving(add_scripted, Scripted()) as port, world.channel(port) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", *{kind.path.split("/")[1] for kind in KINDS}):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="ragweave.v1.RetrievalService"))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def grpcurl(*arguments: str) -> str:
    started = await asyncio.create_subprocess_exec(
        GRPCURL, "-plaintext", *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await started.communicate()
    return out.decode()


async def test_reflection_lists_the_whole_public_contract_and_nothing_internal(world: World) -> None:
    async with world.serving(add_scripted, Scripted()) as port:
        listed = (await grpcurl(world.target(port), "list")).split()
        described = await grpcurl(world.target(port), "describe", "ragweave.v1.RetrievalService")
    assert set(listed) == {
        *contract.public_services(),
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert not [name for name in listed if "internal" in name]
    assert "rpc Search ( .ragweave.v1.SearchRequest )" in described


async def test_grpcurl_calls_a_method_with_a_token_by_reflection_alone(world: World) -> None:
    async with world.serving(add_scripted, Scripted()) as port:
        answer = await grpcurl(
            *("-H", f"authorization: Bearer {world.token(roles=['reader'])}", "-d", '{"name": "collections/a"}'),
            *(world.target(port), "ragweave.v1.CollectionService/GetCollection"),
        )
    assert json.loads(answer) == {"name": "collections/a"}
