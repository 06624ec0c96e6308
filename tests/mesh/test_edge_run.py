"""The edge's own process: it lives and dies with Envoy, and hands it changed keys without touching what runs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.mesh.edge_run import EdgeKeys
from tests.mesh.harness import World, jwks, new_key
from tests.ports import free_port

SLEEPER = (
    "import signal; signal.signal(15, lambda *_: exit(7)); print('up', flush=True); [signal.pause() for _ in 'ab']"
)
RUN = """
import sys
from pathlib import Path
from services.mesh.edge_run import run
sys.exit(run({command!r}, None, Path("/nonexistent")))
"""


@asynccontextmanager
async def parent_of(*command: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A process that runs `command` as the edge's runs Envoy; and the pid of its child, which has said a line."""
    code = RUN.format(command=list(command))
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    try:
        assert parent.stdout is not None
        assert await parent.stdout.readline() == b"up\n"
        yield parent, int(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text())
    finally:
        with suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()


async def gone(pid: int) -> None:
    """Returns when no such process runs any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_reaches_envoy_and_its_end_is_the_end(number: signal.Signals) -> None:
    async with parent_of(sys.executable, "-c", SLEEPER.replace("15", str(number.value))) as (parent, child):
        parent.send_signal(number)
        assert await parent.wait() == 7
        await gone(child)


async def test_who_kills_the_parent_kills_envoy() -> None:
    async with parent_of(sys.executable, "-c", SLEEPER) as (parent, child):
        parent.kill()
        await parent.wait()
        await gone(child)


async def test_envoy_killed_ends_the_parent_as_its_shell_would() -> None:
    async with parent_of(sys.executable, "-c", SLEEPER) as (parent, child):
        os.kill(child, signal.SIGKILL)
        assert await parent.wait() == 128 + signal.SIGKILL


async def test_a_program_that_cannot_be_started_is_an_error() -> None:
    code = RUN.format(command=["/nonexistent"])
    assert await (await asyncio.create_subprocess_exec(sys.executable, "-c", code)).wait() == 127


def test_nothing_is_loaded_that_has_to_be_installed() -> None:
    code = """
import sys
before = set(sys.modules)
import services.mesh.edge_run
loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(loaded - set(sys.stdlib_module_names) - {'ragweave', 'services'}))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def _kept(target: Path) -> list[str]:
    [resource] = json.loads(target.read_bytes())["resources"]
    keys = json.loads(resource["typed_config"]["providers"]["users"]["local_jwks"]["inline_string"])["keys"]
    return [key["kid"] for key in keys]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A JWKS file and a filter's file without keys."""
    source, target = tmp_path / "jwks.json", tmp_path / "jwt.json"
    target.write_text(json.dumps({"resources": [{"typed_config": {"providers": {"users": {"issuer": "i"}}}}]}))
    return source, target


def test_a_changed_file_is_taken_over_once(files: tuple[Path, Path]) -> None:
    (source, target), (old, new) = files, (new_key(), new_key())
    keys = EdgeKeys(source, target)
    source.write_text(jwks(old))
    assert keys.refresh()
    assert not keys.refresh()
    source.with_suffix(".new").write_text(jwks(old, new))
    source.with_suffix(".new").rename(source)
    assert keys.refresh()
    assert _kept(target) == [old.kid, new.kid]


def test_a_mounted_file_behind_links_is_followed(files: tuple[Path, Path], tmp_path: Path) -> None:
    """As Kubernetes mounts one: the file is a link into a folder that is a link, and that one is switched."""
    source, target = files
    old, new = new_key(), new_key()
    for name, key in (("one", old), ("two", new)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "jwks.json").write_text(jwks(key))
    (tmp_path / "data").symlink_to("one")
    source.symlink_to("data/jwks.json")
    keys = EdgeKeys(source, target)
    assert keys.refresh()
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    assert keys.refresh()
    assert _kept(target) == [new.kid]


@pytest.mark.parametrize("broken", ["", "{", '{"keys": []}', None])
def test_a_broken_or_missing_file_changes_nothing_and_is_told_once(
    files: tuple[Path, Path], broken: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (source, target), key = files, new_key()
    keys = EdgeKeys(source, target)
    source.write_text(jwks(key))
    assert keys.refresh()
    capsys.readouterr()
    source.unlink() if broken is None else source.write_text(broken)
    assert not keys.refresh()
    assert not keys.refresh()
    assert _kept(target) == [key.kid]
    assert capsys.readouterr().err.count("stay in use") == 1
    source.write_text(jwks(key, new_key()))
    assert keys.refresh()


def environment(edge_folder: Path, world: World, **settings: Any) -> dict[str, str]:
    """What the edge's process reads its settings from."""
    given = {f"RAGWEAVE_EDGE_{name.upper()}": str(value) for name, value in settings.items()}
    mesh = {"RAGWEAVE_DATA_DIR": str(world.mesh.data_dir), "RAGWEAVE_REDIS_URL": world.mesh.redis_url}
    return {**os.environ, **mesh, **given, "RAGWEAVE_EDGE_ACCESS_LOG": str(edge_folder / "access.log")}


@asynccontextmanager
async def whole_edge(world: World, folder: Path, **settings: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """The edge's process on a free port, once it listens there."""
    folder.mkdir()
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.mesh.edge_run", "--out", str(folder),
        env=environment(folder, world, concurrency=1, **settings), stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not await listens(settings["port"]):
                assert parent.returncode is None
                await asyncio.sleep(0.05)
        yield parent
    finally:
        with suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()


async def listens(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


def children(parent: asyncio.subprocess.Process) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]


async def test_the_whole_edge_ends_on_sigterm_and_frees_its_port(world: World, tmp_path: Path) -> None:
    port = free_port()
    async with whole_edge(world, tmp_path / "edge", port=port, admin_port=free_port()) as parent:
        [child] = children(parent)
        parent.terminate()
        assert await parent.wait() == 0
        assert not Path(f"/proc/{child}").exists()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


async def epoch(admin_port: int) -> int:
    """How many Envoys were before the one that takes connections; -1 while none says."""
    with suppress(httpx.HTTPError):
        async with httpx.AsyncClient() as client:
            said = (await client.get(f"http://127.0.0.1:{admin_port}/server_info")).json()
            return int(said["command_line_options"]["restart_epoch"]) if said["state"] == "LIVE" else -1
    return -1


async def test_one_envoy_takes_over_from_another_and_no_call_is_lost(world: World, tmp_path: Path) -> None:
    """Nobody is behind the edge: its own refusals are answers too, and a connection refused or cut is none."""
    port, admin, folder, answered = free_port(), free_port(), tmp_path / "edge", 0
    async with whole_edge(world, folder, port=port, admin_port=admin, drain_s=1, handover_s=2) as parent:
        [first], over = children(parent), asyncio.Event()
        config, keys = (folder / "envoy.yaml").read_bytes(), Path(world.mesh.jwks).read_text()

        async def call() -> None:
            nonlocal answered
            while not over.is_set():
                async with httpx.AsyncClient() as client:  # a connection of its own each time
                    assert (await client.get(f"http://127.0.0.1:{port}/api/v2/x")).status_code == 501
                answered += 1
                await asyncio.sleep(0.02)

        calling = [asyncio.create_task(call()) for _ in range(4)]
        async with asyncio.timeout(90):
            Path(world.mesh.jwks).write_text("{}")
            parent.send_signal(signal.SIGHUP)
            assert parent.stderr
            while b"the edge stays as it is" not in await parent.stderr.readline():
                assert not parent.stderr.at_eof()
            assert children(parent) == [first] and (folder / "envoy.yaml").read_bytes() == config
            Path(world.mesh.jwks).write_text(keys)
            parent.send_signal(signal.SIGHUP)
            while await epoch(admin) != 1:
                await asyncio.sleep(0.05)
            await gone(first)
            at = answered
            while answered == at:
                await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*calling)
        assert len(children(parent)) == 1 and parent.returncode is None
