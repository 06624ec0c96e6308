"""How collections are searched: the command `usage`."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Final

import grpc
import typer
from google.protobuf.duration_pb2 import Duration

from ragweave.cli.console import command, connect, fail, out
from ragweave.client import Client
from ragweave.names import collection_name, last_id
from ragweave.v1.collection_service_pb2 import GetCollectionRequest
from ragweave.v1.system_service_pb2 import GetUsageRequest, GetUsageResponse
from ragweave.v1.usage_pb2 import Usage

_HEADS: Final = (
    "TIME UTC",
    "COLLECTION",
    "QUERIES",
    "CACHED",
    "EMPTY",
    "DEGRADED",
    "ERRORS",
    "P50",
    "P90",
    "P95",
    "P99",
)
_TEXTS: Final = 2


class By(StrEnum):
    """Length of a row's period."""

    HOUR = "hour"
    DAY = "day"


_TIMES: Final = {By.HOUR: "%m-%d %H:%M", By.DAY: "%Y-%m-%d"}


@command()
def usage(
    collection: Annotated[str, typer.Argument(help="The collection; all of them without.")] = "",
    by: Annotated[By, typer.Option(help="A row for each of these.", case_sensitive=False)] = By.HOUR,
    days: Annotated[
        float | None, typer.Option(help="How far back; 1 unless given, by day 30.", min=0.01, max=3650)
    ] = None,
) -> None:
    """Show how collections were searched: how often, how fast, and with what result."""
    request = GetUsageRequest(collection=collection, granularity=Usage.Granularity.Value(by.name), page_size=100)
    if days is not None:
        request.start_time.FromDatetime(datetime.now(UTC) - timedelta(days=days))
    lines: list[Sequence[str]] = [_HEADS]
    with connect() as client:
        for told in _pages(client, request):
            for row in told.usage:
                begin = row.start_time.ToDatetime()
                lines.append((f"{begin:{_TIMES[by]}}", last_id(row.collection), *_cells(row.figures)))
        if collection and not told.total.queries:
            _check_exists(client, collection)
    lines.append(("all", "", *_cells(told.total)))
    _print_aligned(lines)


def _pages(client: Client, request: GetUsageRequest) -> Iterator[GetUsageResponse]:
    """One page at least."""
    while True:
        told = client.system.GetUsage(request)
        yield told
        if not told.next_page_token:
            return
        request.page_token = told.next_page_token


def _check_exists(client: Client, collection: str) -> None:
    """Ends with an error where nothing was searched for that there is no such collection."""
    try:
        client.collections.GetCollection(GetCollectionRequest(name=collection_name(collection)))
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:  # else it may be there, and this token may not ask
            fail(f"no collection {last_id(collection)!r}, and none of that name was searched in this time")


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
    """To as many digits as the figure is good for."""
    milliseconds = latency.ToMicroseconds() / 1e3
    return f"{milliseconds:,.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"


def _print_aligned(lines: Sequence[Sequence[str]]) -> None:
    """Whole lines, however narrow the terminal: a table of rich's would cut figures off."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            cell.ljust(width) if number < _TEXTS else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        out.print("  ".join(cells), markup=False, soft_wrap=True)
