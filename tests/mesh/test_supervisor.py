"""The supervisor over real processes: restarts, adoption, order, and ports that are taken."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ragweave.local.hangs import LOOK_S, end_when_hung
from ragweave.local.health import taken_ports
from ragweave.local.keys import NoKeys, ensure_keys, sign_token
from ragweave.local.layout import BadSetting, Layout
from ragweave.local.processes import Process
from ragweave.local.supervisor import Supervisor, read_state, start_ticks

SLEEPER = "import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); print('up', flush=True); signal.pause()"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.read({"RAGWEAVE_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    for folder in (made.logs, made.state_file.parent):
        folder.mkdir(parents=True)
    return made


def sleeper(name: str, code: str = SLEEPER) -> Process:
    return Process(name, [sys.executable, "-c", f"{code}  # {name}"])


@asynccontextmanager
async def supervised(layout: Layout, *to_run: Process, hang_look_s: float = LOOK_S) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(layout, to_run, hang_look_s=hang_look_s)
    running = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
    finally:
        supervisor.stop()
        await running


async def eventually(layout: Layout, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The process's entry in the state file once `holds` is true of it."""
    while True:
        entry = read_state(layout).get("processes", {}).get(name, {})
        if entry and holds(entry):
            return dict(entry)
        await asyncio.sleep(0.01)


async def test_a_process_that_dies_is_started_again(layout: Layout) -> None:
    async with supervised(layout, sleeper("one"), sleeper("two")):
        first = await eventually(layout, "one", lambda e: e["pid"] > 0)
        other = await eventually(layout, "two", lambda e: e["pid"] > 0)
        os.kill(first["pid"], signal.SIGKILL)
        second = await eventually(layout, "one", lambda e: e["pid"] not in (0, first["pid"]))
        assert second["restarts"] == 1
        assert second["last_exit"] == "killed by SIGKILL"
        assert read_state(layout)["processes"]["two"]["pid"] == other["pid"]
    assert not start_ticks(second["pid"])
    assert not start_ticks(other["pid"])
    assert read_state(layout)["stopped"]


async def test_who_is_still_needed_by_others_stops_after_them(layout: Layout, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    writing = SLEEPER.replace("sys.exit(0)", f"(open({str(ended)!r}, 'a').write('{{name}} '), sys.exit(0))")
    names = ("redis", "system", "retrieval", "envoy")
    async with supervised(layout, *(sleeper(name, writing.format(name=name)) for name in names)):
        for name in names:
            await eventually(layout, name, lambda e: e["pid"] > 0)
            while "up" not in (layout.logs / f"{name}.log").read_text():
                await asyncio.sleep(0.01)
    assert ended.read_text().split() == ["envoy", "retrieval", "system", "redis"]


async def abandoned(layout: Layout, process: Process) -> dict[str, Any]:
    """The entry of a process whose supervisor is gone."""
    supervisor = asyncio.create_task(Supervisor(layout, [process]).run())
    left = await eventually(layout, process.name, lambda e: e["pid"] > 0)
    supervisor.cancel()
    await asyncio.wait([supervisor])
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return left


async def test_a_process_that_overwrote_its_environment_is_adopted_too(layout: Layout) -> None:
    process = Process("one", ["/usr/bin/env", "-i", sys.executable, "-c", SLEEPER])
    left = await abandoned(layout, process)
    async with supervised(layout, process):
        assert (await eventually(layout, "one", lambda e: e["pid"] > 0))["pid"] == left["pid"]
        assert read_state(layout)["processes"]["one"]["restarts"] == 0


async def test_a_new_supervisor_adopts_what_an_old_one_left(layout: Layout) -> None:
    left = await abandoned(layout, sleeper("one"))
    layout.state_file.unlink()

    async with supervised(layout, sleeper("one")):
        adopted = await eventually(layout, "one", lambda e: e["pid"] > 0)
        assert adopted["pid"] == left["pid"]
        os.kill(adopted["pid"], signal.SIGKILL)
        await eventually(layout, "one", lambda e: e["pid"] not in (0, left["pid"]))


def test_a_taken_port_is_named_with_its_setting(layout: Layout) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = taken_ports(Layout.read({"RAGWEAVE_EDGE_PORT": str(port)}, layout.root))
    assert f"port {port} (edge)" in taken["edge"]
    assert "RAGWEAVE_EDGE_PORT" in taken["edge"]


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_port_that_is_none_is_refused_by_name(port: str) -> None:
    with pytest.raises(BadSetting, match="RAGWEAVE_JOBS_PORT"):
        Layout.read({"RAGWEAVE_JOBS_PORT": port})


def test_one_port_for_two_parts_is_refused_by_name() -> None:
    with pytest.raises(BadSetting, match=r"RAGWEAVE_EDGE_PORT=50051.*RAGWEAVE_EMBEDDING_PORT=50051"):
        Layout.read({"RAGWEAVE_EDGE_PORT": "50051"})


def test_a_data_folder_deeper_than_a_socket_path_allows_gets_a_short_socket(tmp_path: Path) -> None:
    deep = Layout.read({"RAGWEAVE_DATA_DIR": str(tmp_path / ("d" * 120))})
    assert len(os.fsencode(deep.redis_socket)) <= 107
    assert deep.environment()["RAGWEAVE_REDIS_URL"] == f"unix://{deep.redis_socket}"


def test_keys_are_made_once_and_private_ones_are_their_owners_alone(tmp_path: Path) -> None:
    with pytest.raises(NoKeys, match="ragweave up"):
        sign_token(tmp_path, tenant="t", subject="s", roles=["reader"], tier="free")
    ensure_keys(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    ensure_keys(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir() if path.stat().st_mode & 0o077} == {"jwks.json", "mesh_jwks.json"}
    assert b'"d"' not in before["jwks.json"] + before["mesh_jwks.json"]
    assert sign_token(tmp_path, tenant="t", subject="s", roles=["reader"], tier="free").count(".") == 2


HANGING = """
import asyncio, os, time
from pathlib import Path
from services.mesh.heartbeat import beating

async def main():
    async with beating(Path(os.environ["RAGWEAVE_HEARTBEAT_FILE"]), beat_s=0.01):
        await asyncio.sleep(0.05)
        {then}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("then", "exit"),
    [("time.sleep(600)  # here", "killed by SIGABRT"), ("os.kill(os.getpid(), 19)", "killed by SIGKILL")],
    ids=["stands still", "is stopped"],
)
async def test_a_process_whose_event_loop_hangs_is_started_again(
    layout: Layout, then: str, exit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if exit == "killed by SIGKILL":  # it has no last words
        monkeypatch.setattr("ragweave.local.hangs._LAST_WORDS_S", 0.01)
    hangs = Process("hangs", [sys.executable, "-c", HANGING.format(then=then)])
    async with supervised(layout, hangs, sleeper("silent"), hang_look_s=0.05):
        assert (await eventually(layout, "hangs", lambda e: e["restarts"] > 0))["last_exit"] == exit
        if exit == "killed by SIGABRT":
            assert "Current thread" in (layout.logs / "hangs.log").read_text(), "its log says where it hung"
        silent = await eventually(layout, "silent", lambda e: e["pid"] > 0)
        assert silent["restarts"] == 0, "nothing is asked of those that touch no file"


async def test_a_process_whose_file_changes_is_let_alone(tmp_path: Path) -> None:
    beat, beats = tmp_path / "beat", 0
    beat.touch()
    watched = await asyncio.create_subprocess_exec("sleep", "600")
    watching = asyncio.create_task(end_when_hung(watched.pid, beat, look_s=0.005))
    while beats < 100:
        beats += 1
        os.utime(beat, ns=(beats, beats))
        await asyncio.sleep(0.001)
    assert not watching.done()
    watching.cancel()
    watched.kill()
    assert await watched.wait() == -signal.SIGKILL
