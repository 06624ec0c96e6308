"""Usage between the contract's messages and the domain."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ragweave.internal.v1.usage_service_pb2 import RecordUsageRequest
from ragweave.v1.system_service_pb2 import GetUsageRequest, GetUsageResponse
from ragweave.v1.usage_pb2 import Usage
from services.mesh.convert_times import duration_to, time_from, time_to
from services.mesh.errors import InvalidArgument
from services.mesh.latency import percentile_s
from services.system.records import SEARCHES, Figures, Granularity, UsageRow
from services.system.usage import Report

_PERCENTILES: Final = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_MOST: Final = 2**31 - 1
_COLLECTION: Final = re.compile(r"(collections/)?(?P<id>[A-Za-z0-9_.-]{1,128})")


def asked_from(request: GetUsageRequest) -> Mapping[str, Any]:
    """The request, as `SearchUsage.report` takes it. Raises InvalidArgument: a time or the collection is none."""
    return {
        "collection_id": _collection_from(request.collection),
        "since": time_from(request.start_time, "start_time") if request.HasField("start_time") else None,
        "until": time_from(request.end_time, "end_time") if request.HasField("end_time") else None,
        "granularity": Granularity(Usage.Granularity.Name(request.granularity or Usage.HOUR)),
        **{name: getattr(request, name) for name in ("page_size", "page_token", "page")},
    }


def report_to(report: Report) -> GetUsageResponse:
    return GetUsageResponse(
        usage=map(row_to, report.rows.items),
        total=_figures_to(report.total),
        start_time=time_to(report.since),
        end_time=time_to(report.until),
        next_page_token=report.rows.next_page_token,
        total_size=report.rows.total_size,
    )


def row_to(row: UsageRow) -> Usage:
    return Usage(
        collection=f"collections/{row.collection_id}",
        collection_uid=row.collection_uid,
        start_time=time_to(row.start_time),
        granularity=Usage.Granularity.Value(row.granularity),
        figures=_figures_to(row.figures),
    )


def rows_from(request: RecordUsageRequest) -> Iterator[UsageRow]:
    for row in request.rows:
        hour = Granularity.HOUR.begin(time_from(row.time, "rows.time"))
        figures = Figures(**{name: getattr(row, name) for name in SEARCHES}, latencies=dict(row.latencies))
        yield UsageRow(row.tenant, Granularity.HOUR, hour, row.collection_uid, row.collection_id, figures)


def _figures_to(figures: Figures) -> Usage.Figures:
    message = Usage.Figures(
        **{name: min(getattr(figures, name), _MOST) for name in SEARCHES}, cache_hit_rate=figures.cache_hit_rate
    )
    if figures.latencies:
        for name, percent in _PERCENTILES.items():
            getattr(message.latency, name).CopyFrom(duration_to(percentile_s(figures.latencies, percent)))
    return message


def _collection_from(name: str) -> str:
    """The id in `collections/{id}` or the bare id; "" is none."""
    found = _COLLECTION.fullmatch(name)
    if name and not found:
        raise InvalidArgument.of("collection", f"takes collections/{{collection}} or the bare id, found {name!r:.80}")
    return found["id"] if found else ""
