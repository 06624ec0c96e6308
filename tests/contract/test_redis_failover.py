"""Redis fails over or vanishes: calls fail within their time, later ones find who serves now, promises are kept."""

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ragweave.local.processes import store_binary
from services.mesh.breakers import Breaker, Limits
from services.mesh.errors import DependencyUnavailable
from services.mesh.redis import _TCP, answering, open_redis
from tests.ports import free_port
from tests.tcp_relay import tcp_relay

NEVER_OPENS = Limits(failures=10**6)


class Server:
    """A store on a TCP port."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        options = {
            "port": str(self.port),
            "dir": str(folder),
            "appendonly": "yes",
            "save": "",
            "repl-diskless-sync-delay": "0",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = subprocess.Popen([store_binary(), *arguments], stdout=subprocess.DEVNULL)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    started = [Server(tmp_path / name) for name in ("first", "second")]
    try:
        yield started[0], started[1]
    finally:
        for each in started:
            each.process.kill()
            each.process.wait()


@pytest.fixture
async def both(servers: tuple[Server, Server]) -> AsyncIterator[tuple[Any, Any]]:
    """Clients of each server, for who looks after them; both answer."""
    first, second = servers
    async with (
        open_redis(f"redis://{first.address}", connections=1, repeats=100) as one,
        open_redis(f"redis://{second.address}", connections=1, repeats=100) as other,
    ):
        await one.ping()
        await other.ping()
        yield one, other


async def replicates(client: Any) -> None:
    """Until the replica has all that its primary had."""
    while (await client.info("replication"))["master_link_status"] != "up":
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("scripted", [False, True], ids=["command", "script"])
async def test_after_a_failover_writes_go_on_at_the_new_primary_and_nothing_replicated_is_lost(
    servers: tuple[Server, Server], both: tuple[Any, Any], scripted: bool
) -> None:
    first, second = servers
    one, other = both
    await other.replicaof("127.0.0.1", first.port)
    await replicates(other)
    async with (
        tcp_relay(first.address) as relay,
        open_redis(f"redis://127.0.0.1:{relay.port}", connections=2) as client,
    ):
        breaker = Breaker("store", NEVER_OPENS)
        promised: list[int] = []

        async def write(number: int) -> None:
            async with answering("the store", breaker, timeout_s=5):
                if scripted:
                    await client.eval("redis.call('SET', KEYS[1], 'x')", 1, f"key {number}")
                else:
                    await client.set(f"key {number}", "x")
            promised.append(number)

        await asyncio.gather(*(write(number) for number in range(20)))  # over both connections
        assert await one.wait(1, 5000) == 1
        await other.replicaof("NO", "ONE")
        await one.replicaof("127.0.0.1", second.port)
        relay.target = second.address  # as a name or a virtual address that moves; what is connected stays connected
        refused = 0
        for number in range(20, 60):
            try:
                await write(number)
            except DependencyUnavailable:
                refused += 1
        assert refused <= 2, "each connection meets the demoted server once"
        keys = [f"key {number}" for number in promised]
        assert len(keys) >= 58
        assert await other.exists(*keys) == len(keys)


async def test_a_store_that_vanished_without_a_word_costs_one_call_its_time_and_the_next_gets_a_connection(
    servers: tuple[Server, Server], both: tuple[Any, Any]
) -> None:
    async with (
        tcp_relay(servers[0].address) as relay,
        open_redis(f"redis://127.0.0.1:{relay.port}", connections=1) as client,
    ):
        breaker = Breaker("store", NEVER_OPENS)
        await client.set("key", "before")
        relay.vanish()
        before = relay.opened
        with pytest.raises(DependencyUnavailable, match="does not answer"):
            async with answering("the store", breaker, timeout_s=0.3):
                await client.get("key")
        async with answering("the store", breaker, timeout_s=5):
            assert await client.get("key") == b"before"
        assert relay.opened == before + 1


async def test_the_kernel_watches_connections_on_which_nobody_sends(servers: tuple[Server, Server]) -> None:
    """Such as those that wait for news: they have no bound of their own."""
    async with open_redis(f"redis://{servers[0].address}", connections=1, repeats=100) as client:
        await client.ping()
        connection = await client.connection_pool.get_connection()
        try:
            sock = connection._writer.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for option, value in _TCP["socket_keepalive_options"].items():
                assert sock.getsockopt(socket.IPPROTO_TCP, option) == value
        finally:
            await client.connection_pool.release(connection)


async def test_writes_are_refused_by_a_primary_that_would_be_alone_with_them(
    servers: tuple[Server, Server], both: tuple[Any, Any]
) -> None:
    """With `min-replicas-to-write`, as docs/resilience.md wants it where a failover must not lose a promise."""
    one, _ = both
    await one.config_set("min-replicas-to-write", 1)
    with pytest.raises(DependencyUnavailable, match="cannot keep anything now"):
        async with answering("the store", Breaker("store", NEVER_OPENS), timeout_s=5):
            await one.set("key", "x")
