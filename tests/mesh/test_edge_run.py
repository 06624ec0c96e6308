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

import pytest

from services.mesh.edge_run import EdgeKeys
from tests.mesh.harness import World, jwks, new_key
from tests.ports import free_port

SLEEPER = (
    "import signal; signal.signal(15, lambda *_: exit(7)); print('up', flush=True); [signal.pause() for _ in 'ab']"
)


@asynccontextmanager
async def parent_of(*command: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A process that runs `command` as the edge's runs Envoy; and the pid of its child, which has said a line."""
    code = f"import sys; from services.mesh.edge_run import run; sys.exit(run({list(command)!r}, None))"
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
    code = "import sys; from services.mesh.edge_run import run; sys.exit(run(['/nonexistent'], None))"
    assert await (await asyncio.create_subprocess_exec(sys.executable, "-c", code)).wait() == 127


def test_nothing_but_the_standard_library_is_loaded() -> None:
    code = """
import sys
before = set(sys.modules)
import services.mesh.edge_run
loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
print(sorted(loaded - set(sys.stdlib_module_names) - {'services'}))
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


async def test_the_whole_edge_ends_on_sigterm_and_frees_its_port(world: World, tmp_path: Path) -> None:
    port, folder = free_port(), tmp_path / "edge"
    folder.mkdir()
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.mesh.edge_run", "--out", str(folder),
        env=environment(folder, world, port=port, admin_port=free_port(), concurrency=1),
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while True:
                assert parent.returncode is None
                with suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                await asyncio.sleep(0.05)
        [child] = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        parent.terminate()
        assert await parent.wait() == 0
        assert not Path(f"/proc/{child}").exists()
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    finally:
        with suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()
