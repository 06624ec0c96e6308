"""Restarts one at a time: who waits for whom, and what is left alone when somebody does not come back."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ragweave.local.layout import Layout
from ragweave.local.processes import Process, Succession, processes
from ragweave.local.restarting import CannotRestart, chosen, restart
from ragweave.local.supervisor import Supervisor, read_state, start_ticks, supervising

# Says when it begins and ends, with its pid, and whose place it takes.
TELLING = """
import os, signal, sys
def say(what):
    with open({path!r}, "a") as file:
        file.write(f"{{what}} {{os.getpid()}} {{os.environ['RAGWEAVE_PREDECESSOR'].partition(':')[0]}}\\n")
def end(*_):
    say("ends")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGUSR1, end)
signal.signal(signal.SIGHUP, lambda *_: say("renews"))
say("begins")
if os.environ["RAGWEAVE_TAKES_OVER"] == "on":
    if os.path.exists({path!r} + ".broken"):
        sys.exit(1)
    os.kill(int(os.environ["RAGWEAVE_PREDECESSOR"].partition(":")[0]), signal.SIGUSR1)
while True:
    signal.pause()
"""


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout.read({"RAGWEAVE_DATA_DIR": str(tmp_path / "data")}, tmp_path)
    for folder in (made.logs, made.state_file.parent):
        folder.mkdir(parents=True)
    return made


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """Where processes say what they do."""
    path = tmp_path / "told"
    path.touch()
    return path


def teller(name: str, told: Path, succession: Succession) -> Process:
    code = TELLING.format(path=str(told))
    return Process(name, [sys.executable, "-c", f"{code}# {name}"], succession=succession)


@asynccontextmanager
async def supervised(layout: Layout, *to_run: Process) -> AsyncIterator[None]:
    supervisor = Supervisor(layout, to_run)
    with supervising(layout):
        running = asyncio.create_task(supervisor.run())
        try:
            yield
        finally:
            supervisor.stop()
            await running


async def lines(told: Path, count: int) -> list[list[str]]:
    """What was said, once it is so many lines."""
    while True:
        found = [line.split(" ") for line in told.read_text().splitlines()]
        if len(found) >= count:
            return found
        await asyncio.sleep(0.01)


def pid_of(layout: Layout, name: str) -> str:
    entry: dict[str, Any] = read_state(layout)["processes"][name]
    return str(entry["pid"])


async def restarted(layout: Layout, *to_restart: Process, among: tuple[Process, ...] = ()) -> list[str]:
    done = await asyncio.to_thread(lambda: list(restart(layout, among or to_restart, to_restart)))
    return [each.name for each in done]


async def test_one_that_waits_is_started_beside_the_one_it_takes_the_place_of(layout: Layout, told: Path) -> None:
    process = teller("jobs", told, Succession.WAITING)
    async with supervised(layout, process):
        [[_, first, _]] = await lines(told, 1)
        assert await restarted(layout, process) == ["jobs"]
        said = await lines(told, 3)
        second = pid_of(layout, "jobs")
        assert [each[1] for each in said if each[0] == "ends"] == [first]
        assert ["begins", second, first] in said
        assert not start_ticks(int(first)) and start_ticks(int(second))


async def test_the_only_one_there_is_goes_when_its_successor_says_so(layout: Layout, told: Path) -> None:
    process = teller("jobs", told, Succession.OVER)
    async with supervised(layout, process):
        [[_, first, _]] = await lines(told, 1)
        assert await restarted(layout, process) == ["jobs"]
        second = pid_of(layout, "jobs")
        assert await lines(told, 3) == [["begins", first, ""], ["begins", second, first], ["ends", first, ""]]


async def test_the_only_one_there_is_goes_on_where_its_successor_does_not_come(layout: Layout, told: Path) -> None:
    process = teller("jobs", told, Succession.OVER)
    async with supervised(layout, process):
        [[_, first, _]] = await lines(told, 1)
        broken = told.with_name(f"{told.name}.broken")
        broken.touch()
        with pytest.raises(CannotRestart, match=r"^jobs goes on: .* `ragweave logs jobs`"):
            await restarted(layout, process)
        assert pid_of(layout, "jobs") == first and start_ticks(int(first))
        broken.unlink()
        await restarted(layout, process)
        assert pid_of(layout, "jobs") != first


async def test_the_store_ends_before_another_is_started_on_its_files(layout: Layout, told: Path) -> None:
    process = teller("store", told, Succession.AFTER)
    async with supervised(layout, process):
        [[_, first, _]] = await lines(told, 1)
        await restarted(layout, process)
        assert [each[:2] for each in await lines(told, 3)] == [
            *(["begins", first], ["ends", first], ["begins", pid_of(layout, "store")])
        ]


async def test_the_edge_is_told_to_renew_what_it_runs_and_stays(layout: Layout, told: Path) -> None:
    process = teller("envoy", told, Succession.WITHIN)
    async with supervised(layout, process):
        [[_, first, _]] = await lines(told, 1)
        layout.restarts.mkdir()
        (layout.restarts / "envoy").touch()
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await lines(told, 2))[1][:2] == ["renews", first]
        assert pid_of(layout, "envoy") == first
        assert not list(layout.restarts.iterdir())


async def test_a_process_that_was_restarted_is_kept_running_too(layout: Layout, told: Path) -> None:
    process = teller("jobs", told, Succession.WAITING)
    async with supervised(layout, process):
        await lines(told, 1)
        await restarted(layout, process)
        await lines(told, 3)
        second = pid_of(layout, "jobs")
        os.kill(int(second), signal.SIGKILL)
        third = (await lines(told, 4))[3]
        assert third == ["begins", third[1], ""]  # it waits for nobody


async def test_a_supervisor_that_comes_meanwhile_adopts_the_one_that_comes(layout: Layout, told: Path) -> None:
    """Both bear the name; the one that goes is the older."""
    process = teller("jobs", told, Succession.WAITING)
    environment = {**os.environ, **layout.environment(), "RAGWEAVE_PROCESS": "jobs"}
    environment |= {"RAGWEAVE_PREDECESSOR": "", "RAGWEAVE_TAKES_OVER": "off"}
    left = []
    for count in (1, 2):
        made = await asyncio.create_subprocess_exec(*process.command, env=environment, start_new_session=True)
        left.append(made)
        await lines(told, count)
        await asyncio.sleep(2 / os.sysconf("SC_CLK_TCK"))  # the kernel tells starts apart by its ticks
    try:
        async with supervised(layout, process):
            while not layout.state_file.exists():
                await asyncio.sleep(0.01)
            assert pid_of(layout, "jobs") == str(left[1].pid)
    finally:
        left[0].kill()
        for each in left:
            await each.wait()


async def test_a_replica_goes_on_while_another_does_not_serve(layout: Layout, told: Path) -> None:
    first, second = (teller(name, told, Succession.WAITING) for name in ("jobs", "jobs-2"))
    second = replace(second, address="127.0.0.1:1")  # where nobody answers
    async with supervised(layout, first, second):
        await lines(told, 2)
        with pytest.raises(CannotRestart, match=r"^jobs-2 does not serve, so jobs goes on"):
            await restarted(layout, first, among=(first, second))
        assert not [each for each in await lines(told, 2) if each[0] == "ends"]


def test_names_stand_for_processes_and_for_services_with_their_replicas(tmp_path: Path) -> None:
    given = {"RAGWEAVE_DATA_DIR": str(tmp_path), "RAGWEAVE_JOBS_REPLICAS": "2", "RAGWEAVE_WORKER_REPLICAS": "2"}
    all_processes = processes(Layout.read(given, tmp_path))
    assert [each.name for each in chosen(all_processes, ["jobs"])] == ["jobs", "jobs-2"]
    assert [each.name for each in chosen(all_processes, ["worker-2", "redis"])] == ["redis", "worker-2"]
    assert "redis" not in [each.name for each in chosen(all_processes, [])]
    with pytest.raises(CannotRestart, match=r"no process named 'redes'; there are: .*redis"):
        chosen(all_processes, ["redes"])


async def test_nothing_is_restarted_where_nothing_runs(layout: Layout, told: Path) -> None:
    with pytest.raises(CannotRestart, match="ragweave up"):
        await restarted(layout, teller("jobs", told, Succession.WAITING))
