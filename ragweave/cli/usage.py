"""How collections are searched: the command `usage`."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration
from rich.table import Table

from ragweave.cli.console import command, connect, fail, out
from ragweave.names import last_id
from ragweave.v1.system_service_pb2 import GetUsageRequest
from ragweave.v1.usage_pb2 import Usage

_HEADS = ("TIME (UTC)", "COLLECTION", "QUERIES", "CACHED", "EMPTY", "DEGRADED", "ERRORS", "P50", "P90", "P95", "P99")
_TEXTS = 2
_PERIODS = {"hour": Usage.HOUR, "day": Usage.DAY}


@command()
def usage(
    collection: Annotated[str, typer.Argument(help="The collection; all of them without.")] = "",
    by: Annotated[str, typer.Option(help="hour or day.")] = "hour",
    days: Annotated[float, typer.Option(help="How far back.", min=0.01, max=3650)] = 1.0,
) -> None:
    """Show how collections were searched: how often, how fast, and with what result."""
    if by not in _PERIODS:
        fail(f"by: {by!r} is none of {', '.join(_PERIODS)}")
    request = GetUsageRequest(collection=collection, granularity=_PERIODS[by], page_size=100)
    now = datetime.now(UTC)
    request.start_time.FromDatetime(now - timedelta(days=days))
    request.end_time.FromDatetime(now)
    table = Table(box=None, pad_edge=False)
    for number, head in enumerate(_HEADS):
        table.add_column(head, justify="left" if number < _TEXTS else "right", no_wrap=True)
    with connect() as client:
        told = client.system.GetUsage(request)
        total = told.total
        while True:
            for row in told.usage:
                begin = row.start_time.ToDatetime().isoformat(sep=" ", timespec="minutes")
                table.add_row(begin, last_id(row.collection), *_cells(row.figures))
            if not told.next_page_token:
                break
            request.page_token = told.next_page_token
            told = client.system.GetUsage(request)
    table.add_row("all", "", *_cells(total))
    out.print(table)


def _cells(figures: Usage.Figures) -> list[str]:
    latency = figures.latency
    percentiles = (latency.p50, latency.p90, latency.p95, latency.p99)
    return [
        f"{figures.queries:,}",
        f"{figures.cache_hit_rate:.0%}",
        f"{figures.zero_results:,}",
        f"{figures.degraded:,}",
        f"{figures.errors:,}",
        *(_spelt(each) if figures.HasField("latency") else "-" for each in percentiles),
    ]


def _spelt(latency: Duration) -> str:
    milliseconds = latency.ToMicroseconds() / 1e3
    return f"{milliseconds / 1e3:.1f} s" if milliseconds >= 1e3 else f"{milliseconds:.3g} ms"
