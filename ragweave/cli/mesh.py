"""Commands for the local mesh: up, down, restart, status, logs."""

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from ragweave.cli.console import command, err, fail, layout, out
from ragweave.local.health import Standing, memory_bytes, standings, taken_ports
from ragweave.local.keys import ensure_keys
from ragweave.local.layout import Layout
from ragweave.local.processes import Process, ensure_mesh_certificates, processes
from ragweave.local.restarting import CannotRestart, chosen
from ragweave.local.restarting import restart as restarting
from ragweave.local.supervisor import read_state, start_detached, start_ticks, supervisor_pid
from ragweave.local.weaknesses import weaknesses

_READY_S = 60.0
_LOOK_S = 0.1
_CERTIFICATES_LOOK_S = 3600.0


@command()
def up() -> None:
    """Start the mesh in the background and wait until it serves."""
    here = layout()
    all_processes = processes(here)
    began = time.monotonic()
    if not supervisor_pid(here):
        if here.production and (weak := [each for each in weaknesses(here) if each.refused]):
            fail("production refuses to start:\n" + "\n".join(f"- {each}" for each in weak))
        running = [each for each in standings(here, all_processes) if each.pid]
        if not running and (taken := taken_ports(here)):
            fail("; ".join(taken.values()))
        _ensure_secrets(here, all_processes)
        start_detached(here)
    with err.status("starting") as status:
        while True:
            now = standings(here, all_processes)
            waiting = [each.name for each in now if not each.ready]
            if not waiting:
                break
            status.update(f"waiting for {', '.join(waiting)}")
            if time.monotonic() - began > _READY_S:
                _tell_why(here, now)
            time.sleep(_LOOK_S)
    out.print(f"ready after {time.monotonic() - began:.1f} s: {here.url} (REST, gRPC, gRPC-Web)")


@command()
def keys(
    watch: Annotated[bool, typer.Option("--watch", help="Go on, and renew certificates in time.")] = False,
) -> None:
    """Make what `up` makes before it starts: development keys and, with TLS on, the local CA's certificates."""
    here = layout()
    all_processes = processes(here)
    _ensure_secrets(here, all_processes)
    made = here.keys, *([here.certificates] if here.tls and not here.mounted else [])
    out.print(f"in {' and '.join(map(str, made))}", soft_wrap=True)
    while watch:
        time.sleep(_CERTIFICATES_LOOK_S)
        for role in ensure_mesh_certificates(here, all_processes):
            out.print(f"{role}: certificate renewed")


@command()
def down() -> None:
    """Stop the mesh; everything it keeps stays."""
    here = layout()
    pid = supervisor_pid(here)
    if not pid:
        out.print("the mesh is not running")
        return
    guard = int(read_state(here).get("guard") or 0)
    guard_began = start_ticks(guard)
    os.kill(pid, signal.SIGTERM)
    with err.status("stopping"):
        while supervisor_pid(here) == pid or (guard_began and start_ticks(guard) == guard_began):
            time.sleep(_LOOK_S)
    out.print("stopped")


@command()
def restart(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Processes, or services with all their replicas; everything but the store where left out."),
    ] = None,
) -> None:
    """Restart the mesh, or parts of it, one process at a time, each once the one before serves again."""
    here = layout()
    all_processes = processes(here)
    try:
        to_restart = chosen(all_processes, names or [])
        with err.status(f"restarting {to_restart[0].name}") as status:
            for done, following in zip(
                restarting(here, all_processes, to_restart), [*to_restart[1:], None], strict=True
            ):
                out.print(f"{done.name}: restarted in {done.took_s:.1f} s")
                status.update(f"restarting {following.name}" if following else "")
    except CannotRestart as error:
        fail(str(error))


@command()
def status() -> None:
    """Show every process: state, memory, restarts. Ends with 1 unless all serve."""
    here = layout()
    now = standings(here, processes(here))
    memory = {each.name: memory_bytes(each.pid) for each in now if each.pid}
    table = Table(box=None, pad_edge=False)
    for column in ("PROCESS", "STATE", "PID", "UP", "RESTARTS", "MEMORY", "ADDRESS"):
        table.add_column(column, justify="right" if column in ("PID", "UP", "RESTARTS", "MEMORY") else "left")
    for each in now:
        table.add_row(
            each.name,
            f"[{'green' if each.ready else 'red'}]{each.state}[/]",
            str(each.pid or "-"),
            _duration(time.time() - each.started_at) if each.pid else "-",
            str(each.restarts),
            f"{memory[each.name] / 2**20:.0f} MiB" if each.pid else "-",
            each.address,
        )
    table.add_row("all", "", "", "", "", f"{sum(memory.values()) / 2**20:.0f} MiB", "")
    out.print(table)
    if not supervisor_pid(here):
        out.print("the mesh is not running; `ragweave up` starts it")
    if not all(each.ready for each in now):
        raise typer.Exit(1)


@command()
def logs(
    name: Annotated[str, typer.Argument(help="A process, as in `ragweave status`; all of them where left out.")] = "",
    lines: Annotated[int, typer.Option("-n", help="Lines from the end of each log.", min=0)] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what is written.")] = False,
) -> None:
    """Print the processes' logs."""
    here = layout()
    files = sorted(here.logs.glob(f"{name or '*'}.log"))
    if not files:
        known = ", ".join(path.stem for path in sorted(here.logs.glob("*.log"))) or "none yet"
        fail(f"no log named {name!r}; there are: {known}" if name else f"no logs in {here.logs} yet")
    ends = {}
    for path in files:
        with path.open(errors="replace") as file:
            for line in deque(file, lines):
                _print_line(path, line, several=len(files) > 1)
            ends[path] = file.tell()
    while follow:
        for path in files:
            if path.stat().st_size < ends[path]:
                ends[path] = 0
            with path.open(errors="replace") as file:
                file.seek(ends[path])
                for line in file:
                    _print_line(path, line, several=len(files) > 1)
                ends[path] = file.tell()
        time.sleep(0.2)


def _ensure_secrets(here: Layout, all_processes: Sequence[Process]) -> None:
    """Makes what processes need before they start and is missing; in production no key."""
    here.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not here.production:
        ensure_keys(here.keys)
    ensure_mesh_certificates(here, all_processes)


def _tell_why(here: Layout, now: list[Standing]) -> None:
    for each in now:
        path = here.logs / f"{each.name}.log"
        if not each.ready and path.exists():
            err.print(f"{each.name} is {each.state} ({each.last_exit or 'running'}); the end of {path}:")
            with path.open(errors="replace") as file:
                for line in deque(file, 10):
                    err.print(f"  {line.rstrip()}", markup=False)
    waiting = ", ".join(each.name for each in now if not each.ready)
    fail(f"not ready after {_READY_S:.0f} s: {waiting}; see also {here.logs / 'supervisor.log'}")


def _print_line(path: Path, line: str, *, several: bool) -> None:
    sys.stdout.write(f"{path.stem:<11} {line}" if several else line)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min" if whole < 7200 else f"{whole // 3600} h"
