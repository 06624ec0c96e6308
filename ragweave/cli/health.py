"""The command for how the whole deployment is: health."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from rich.markup import escape
from rich.table import Table

from ragweave.cli.console import command, connect_anonymously, connect_as_operator, out
from ragweave.local.keys import NoKeys
from ragweave.v1.health_pb2 import Health

_COLORS = {Health.SERVING: "green", Health.DEGRADED: "yellow", Health.DOWN: "red"}
_RIGHT = ("UP", "MEMORY", "CPU", "LAG", "CALLS", "ANSWERED IN")


@command()
def health(
    dependencies: Annotated[bool, typer.Option("--all", "-a", help="Show dependencies that are well too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer as JSON.")] = False,
) -> None:
    """Show how every process says it is, what it needs and what waits. Ends with 1 unless all is SERVING.

    As an operator, by RAGWEAVE_TOKEN or in development; others learn the overall state alone.
    """
    told = _asked()
    if as_json:
        sys.stdout.write(json_format.MessageToJson(told, always_print_fields_with_no_presence=True) + "\n")
    else:
        _show(told, whole=dependencies)
    if told.state != Health.SERVING:
        raise typer.Exit(1)


def _asked() -> Health:
    try:
        with connect_as_operator() as client:
            return client.health()
    except NoKeys:
        with connect_anonymously() as client:
            return client.health()


def _show(told: Health, *, whole: bool) -> None:
    out.print(f"{_state(told.state)}  version {escape(told.version)}")
    if not told.services:
        out.print("more is told to operators: set RAGWEAVE_TOKEN to a token of theirs")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("PROCESS", "STATE", *_RIGHT, "WHY"):
        table.add_column(column, justify="right" if column in _RIGHT else "left", overflow="fold")
    for service in told.services:
        if not service.processes:
            table.add_row(escape(service.name), _state(service.state), *[""] * len(_RIGHT), "none is known")
        for process in service.processes:
            table.add_row(escape(process.name), _state(process.state), *_figures(process), escape(process.error))
    out.print(table)
    for service in told.services:
        for process in service.processes:
            for line in (*_waiting(process), *_needed(process, whole=whole)):
                out.print(f"{escape(process.name)}  {line}", soft_wrap=True)


def _figures(process: Health.Process) -> list[str]:
    if not process.HasField("uptime"):
        return [""] * len(_RIGHT)
    return [
        _span(process.uptime),
        f"{process.memory_bytes / 2**20:.0f} MiB",
        f"{process.cpu_usage:.0%}",
        _span(process.loop_lag),
        str(process.running_calls),
        _span(process.response_time),
    ]


def _waiting(process: Health.Process) -> Iterator[str]:
    for queue in process.queues:
        line = f"queue of {escape(queue.name)}: {queue.depth} wait, {queue.leased} worked on, {queue.delayed} for later"
        if queue.HasField("oldest_age"):
            line += f"; the oldest for {_span(queue.oldest_age)}"
        if queue.late_leases:
            line += f"; [red]{queue.late_leases} leases ran out[/], one {_span(queue.longest_silence)} ago"
        yield line


def _needed(process: Health.Process, *, whole: bool) -> Iterator[str]:
    for each in process.dependencies:
        trips = each.breaker.failures or each.breaker.state not in (
            Health.Breaker.STATE_UNSPECIFIED,
            Health.Breaker.CLOSED,
        )
        if whole or each.state != Health.SERVING or trips:
            needed = " (required)" if each.required else ""
            line = f"needs {escape(each.name)}{needed}: {_state(each.state)}"
            line += f" in {_span(each.response_time)}" if each.HasField("response_time") else ""
            line += f", {escape(each.error)}" if each.error else ""
            if each.HasField("breaker") and (whole or trips):
                state = Health.Breaker.State.Name(each.breaker.state).lower().replace("_", "-")
                line += f"; breaker {state} after {each.breaker.failures} failures"
            yield line


def _state(state: Health.State.ValueType) -> str:
    return f"[{_COLORS.get(state, 'red')}]{Health.State.Name(state)}[/]"


def _span(duration: Duration) -> str:
    """A duration as people say it: 3 ms, 12 s, 5 min, 3 h, 2 d."""
    seconds = duration.ToMicroseconds() / 1e6
    for most, unit, size in ((1, "ms", 0.001), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"
