"""Restarting the local mesh a process at a time, so that somebody always answers."""

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ragweave.local.health import standings
from ragweave.local.layout import Layout, service_of
from ragweave.local.processes import Process, Succession
from ragweave.local.supervisor import read_state, start_ticks, supervisor_pid

# What restarts as a whole leave alone: writes wait for it. It is restarted by name.
STORE = "redis"
# Until those who were turned away from a process have found back to it: they look for it every two seconds at the
# latest (grpc.max_reconnect_backoff_ms, give or take a fifth), the edge every half.
_FOUND_BACK_S = 3.0
_READY_S = 90.0
_LOOK_S = 0.05


class CannotRestart(Exception):
    """The restart was not begun, or has stopped there; says why."""


@dataclass(frozen=True)
class Restarted:
    """A process that has been restarted."""

    name: str
    took_s: float


def chosen(all_processes: Sequence[Process], names: Sequence[str]) -> list[Process]:
    """The processes that names stand for: processes, or services with all their replicas; all but the store for none.

    Raises:
        CannotRestart: A name stands for none.
    """
    known = {process.name for process in all_processes} | {service_of(process.name) for process in all_processes}
    if unknown := [name for name in names if name not in known]:
        raise CannotRestart(f"no process named {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    if not names:
        return [process for process in all_processes if process.name != STORE]
    return [each for each in all_processes if each.name in names or service_of(each.name) in names]


def restart(layout: Layout, all_processes: Sequence[Process], to_restart: Sequence[Process]) -> Iterator[Restarted]:
    """Restarts processes one after the other, each once the one before it serves again; yields each when it does.

    Raises:
        CannotRestart: Another replica does not serve, so that nobody would; or a process does not come back. Those
            that follow are left as they are.
    """
    last: Process | None = None
    for process in to_restart:
        if last is not None and service_of(last.name) == service_of(process.name):
            time.sleep(_FOUND_BACK_S)
        others = [each for each in all_processes if each is not process and _same_service(each, process)]
        down = [each.name for each in standings(layout, others) if not each.ready]
        if down:
            raise CannotRestart(f"{', '.join(down)} does not serve, so {process.name} goes on; see `ragweave status`")
        began = time.monotonic()
        _restart(layout, process)
        yield Restarted(process.name, time.monotonic() - began)
        last = process


def _same_service(one: Process, other: Process) -> bool:
    return service_of(one.name) == service_of(other.name)


def _restart(layout: Layout, process: Process) -> None:
    before, starts, epoch = _entry(layout, process), _starts(layout, process), _epoch(layout)
    supervisor = supervisor_pid(layout)
    if not supervisor:
        raise CannotRestart("the mesh is not running; `ragweave up` starts it")
    layout.restarts.mkdir(parents=True, exist_ok=True)
    (layout.restarts / process.name).touch()
    os.kill(supervisor, signal.SIGHUP)
    until = time.monotonic() + _READY_S
    while not _back(layout, process, before, epoch):
        tried = process.succession is Succession.OVER and _starts(layout, process) > starts
        if tried and _entry(layout, process) == before:
            raise CannotRestart(
                f"{process.name} goes on: what should take its place does not come; see `ragweave logs {process.name}`"
            )
        if time.monotonic() > until:
            raise CannotRestart(
                f"{process.name} does not serve {_READY_S:.0f} s after its restart; see `ragweave logs {process.name}`"
            )
        time.sleep(_LOOK_S)


def _back(layout: Layout, process: Process, before: tuple[int, int], epoch: int) -> bool:
    """Whether what runs is not what ran before, which has ended, and serves."""
    if process.succession is Succession.WITHIN:
        return _epoch(layout) > epoch and _ready(layout, process)
    pid, ticks = before
    return _entry(layout, process) != before and start_ticks(pid) != ticks and _ready(layout, process)


def _ready(layout: Layout, process: Process) -> bool:
    (standing,) = standings(layout, [process])
    return standing.ready


def _entry(layout: Layout, process: Process) -> tuple[int, int]:
    """Pid and start time of a process as last started."""
    entry = read_state(layout).get("processes", {}).get(process.name, {})
    return int(entry.get("pid") or 0), int(entry.get("start_ticks") or 0)


def _starts(layout: Layout, process: Process) -> int:
    """How often it was started again so far; a successor that did not come counts."""
    return int(read_state(layout).get("processes", {}).get(process.name, {}).get("restarts") or 0)


def _epoch(layout: Layout) -> int:
    """How many Envoys were before the one that takes connections; -1 while none says."""
    try:
        with urllib.request.urlopen(f"http://{layout.address('edge admin')}/server_info", timeout=2) as response:
            said = json.load(response)
    except (OSError, ValueError):
        return -1
    return int(said["command_line_options"]["restart_epoch"]) if said["state"] == "LIVE" else -1
