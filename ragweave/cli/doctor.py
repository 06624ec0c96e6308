"""The command that finds what is wrong and says how to mend it: doctor."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated

import grpc
import typer
from rich.markup import escape

from ragweave.cli.console import command, connect_as_operator, layout, out
from ragweave.doctor import code, keys, machine, mesh, ports
from ragweave.errors import RagweaveError
from ragweave.findings import Finding, Severity, error, from_lines, ok, to_lines, warning
from ragweave.local.health import standings
from ragweave.local.keys import NoKeys
from ragweave.local.layout import BadSetting, Layout
from ragweave.local.processes import processes
from ragweave.local.supervisor import supervisor_pid

_MARKS = {Severity.OK: "[green]ok     [/]", Severity.WARNING: "[yellow]warning[/]", Severity.ERROR: "[red]ERROR  [/]"}
_SERVICES_S = 120


@command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a finding.")] = False,
) -> None:
    """Look for what is wrong with this machine's mesh, and say how to mend it. Ends with 1 where there is an error."""
    found = []
    for finding in _examine():
        found.append(finding)
        if as_json:
            sys.stdout.write(to_lines([finding]))
        else:
            _show(finding)
    wrong = sum(each.severity is Severity.ERROR for each in found)
    if not as_json:
        weak = sum(each.severity is Severity.WARNING for each in found)
        out.print(f"{wrong} errors, {weak} warnings")
    if wrong:
        raise typer.Exit(1)


def _examine() -> Iterator[Finding]:
    try:
        here = layout()
    except BadSetting as bad:
        yield error(str(bad), "the mesh cannot start", "correct the setting, or unset it for its default")
        return
    running = bool(supervisor_pid(here))
    yield from machine.examine(here)
    if not here.production:
        yield from keys.examine(here, running=running)
    yield from _processes(here, running=running)
    yield from _services(here, running=running)


def _processes(here: Layout, *, running: bool) -> Iterator[Finding]:
    try:
        now = standings(here, processes(here))
    except BadSetting:
        return  # told of the machine
    yield from code.examine(here.root, now)
    if running:
        yield from mesh.processes(here, now)
        yield from _reported()
    elif os.environ.get("RAGWEAVE_TARGET"):
        yield from _reported()
    else:
        yield error("the mesh is not running", "nothing is served", "`ragweave up`")
        yield from ports.examine(here)


def _reported() -> Iterator[Finding]:
    try:
        with connect_as_operator() as client:
            health = client.health()
    except (NoKeys, BadSetting) as failure:
        yield warning("the processes were not asked how they are", str(failure), "set RAGWEAVE_TOKEN to an operator's")
        return
    except (RagweaveError, grpc.RpcError) as failure:
        said = failure.message if isinstance(failure, RagweaveError) else str(failure)
        yield error(f"the edge does not answer for system: {said}", "callers are refused", "`ragweave logs envoy`")
        return
    if not health.services:
        why = "what is wrong with each is told to operators alone"
        yield warning("the processes were not asked how they are", why, "set RAGWEAVE_TOKEN to an operator's")
        return
    wrong = list(mesh.reported(health))
    yield from wrong or [ok("every process says that all it needs is there")]


def _services(here: Layout, *, running: bool) -> Iterator[Finding]:
    """What only the services can tell of their settings, in a process of their own."""
    line = [sys.executable, "-m", "services.doctor", *([] if running else ["--stopped"])]
    environment = {**os.environ, **here.environment()}
    try:
        said = subprocess.run(
            line, env=environment, cwd=here.root, capture_output=True, text=True, timeout=_SERVICES_S, check=False
        )
    except subprocess.TimeoutExpired:
        yield error("the services' own checks did not end", "what they would find is not known", "run it again")
        return
    yield from from_lines(said.stdout)
    if said.returncode:
        last = (said.stderr.strip().splitlines() or ["no word why"])[-1]
        yield error(f"the services' own checks failed: {last}", "the software is not whole", "`make install`")


def _show(finding: Finding) -> None:
    out.print(f"{_MARKS[finding.severity]} {escape(finding.what)}", soft_wrap=True)
    if finding.severity is not Severity.OK:
        out.print(f"        why:  {escape(finding.why)}", soft_wrap=True)
        out.print(f"        mend: {escape(finding.mend)}", soft_wrap=True)
