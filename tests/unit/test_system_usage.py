"""A tenant sees how its collections were searched, in whole hours or days, and nothing of anybody else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ragweave.internal.v1.usage_service_pb2 import RecordUsageRequest
from ragweave.v1.system_service_pb2 import GetUsageRequest
from ragweave.v1.usage_pb2 import Usage
from services.mesh.errors import InvalidArgument, InvalidPageToken
from services.mesh.identity import Caller
from services.mesh.latency import bucket_of
from services.system import convert_usage
from services.system.adapters.memory import MemoryTenantStore, MemoryUsageStore
from services.system.records import Figures, Granularity, Tenant, TenantState, UsageRow
from services.system.usage import Report, SearchUsage

ANN = Caller("acme", "ann", frozenset({"admin"}))
EVE = Caller("globex", "eve", frozenset({"admin"}))
NOW = datetime(2024, 5, 20, 12, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tenants() -> MemoryTenantStore:
    return MemoryTenantStore()


@pytest.fixture
def usage(tenants: MemoryTenantStore, clock: Clock) -> SearchUsage:
    return SearchUsage(MemoryUsageStore(), tenants, retention=30 * DAY, clock=clock)


def hour(before: timedelta = timedelta(0), collection: str = "docs", *, tenant: str = "acme", n: int = 1) -> UsageRow:
    """So many searches, answered in 10 ms, so long before NOW; of all where the collection is empty."""
    begin = Granularity.HOUR.begin(NOW - before)
    figures = Figures(n, zero_results=n, latencies={bucket_of(0.010): n})
    return UsageRow(tenant, Granularity.HOUR, begin, collection and f"uid-{collection}", collection, figures)


def told(report: Report) -> list[tuple[str, datetime, int]]:
    return [(row.collection_id, row.start_time, row.figures.queries) for row in report.rows.items]


async def test_hours_add_up_to_days_in_utc(usage: SearchUsage) -> None:
    await usage.add("one", [hour(), hour(HOUR, n=2), hour(DAY + HOUR, n=4), hour(n=8, collection="manuals")])
    await usage.add("two", [hour(n=16)])
    today = datetime(2024, 5, 20, tzinfo=UTC)
    by_day = await usage.report(ANN, granularity=Granularity.DAY)
    assert told(by_day) == [("docs", today, 19), ("manuals", today, 8), ("docs", today - DAY, 4)]
    noon = today + 12 * HOUR
    assert told(await usage.report(ANN)) == [("docs", noon, 17), ("manuals", noon, 8), ("docs", noon - HOUR, 2)]


async def test_a_span_is_of_whole_periods_and_has_a_default(usage: SearchUsage) -> None:
    every = await usage.report(ANN)
    assert (every.since, every.until) == (NOW - HOUR / 2 - DAY, NOW + HOUR / 2)
    days = await usage.report(ANN, granularity=Granularity.DAY)
    assert (days.since, days.until) == (datetime(2024, 4, 20, tzinfo=UTC), datetime(2024, 5, 21, tzinfo=UTC))
    exact = await usage.report(ANN, since=NOW - HOUR / 2 - HOUR, until=NOW - HOUR / 2)
    assert (exact.since, exact.until) == (NOW - 3 * HOUR / 2, NOW - HOUR / 2)
    ends = {"since": datetime(1, 1, 1, tzinfo=UTC), "until": datetime(9999, 12, 31, 23, 59, tzinfo=UTC)}
    for granularity in Granularity:
        assert (await usage.report(ANN, granularity=granularity, **ends)).total == Figures()


@pytest.mark.parametrize(
    ("span", "field"),
    [
        ({"since": NOW + HOUR}, "start_time"),
        ({"since": NOW, "until": NOW}, "end_time"),
        ({"since": NOW - HOUR, "until": NOW - DAY}, "end_time"),
    ],
)
async def test_a_span_that_is_none_is_refused_by_field(
    usage: SearchUsage, span: dict[str, datetime], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await usage.report(ANN, **span)
    assert refused.value.violations[0].field == field


async def test_a_search_of_several_collections_counts_once_in_the_total(usage: SearchUsage) -> None:
    await usage.add("one", [hour(), hour(collection="manuals"), hour(collection="")])
    every = await usage.report(ANN)
    assert [name for name, _, _ in told(every)] == ["docs", "manuals"]
    assert every.total.queries == 1
    one = await usage.report(ANN, collection_id="docs")
    assert (told(one)[0][0], len(one.rows.items), one.total.queries) == ("docs", 1, 1)
    assert (await usage.report(ANN, collection_id="nothing")).total == Figures()


async def test_another_tenants_figures_do_not_exist(usage: SearchUsage) -> None:
    await usage.add("one", [hour(), hour(collection=""), hour(collection="theirs", tenant="globex")])
    assert [name for name, _, _ in told(await usage.report(EVE))] == ["theirs"]
    assert (await usage.report(EVE, collection_id="docs")).rows.total_size == 0
    listed = await usage.list_rows(EVE, order_by="start_time", filter="", page_size=9, page_token="", page=0)
    assert [row.tenant for row in listed.items] == ["globex"]


async def test_nothing_is_kept_of_tenants_that_are_gone(usage: SearchUsage, tenants: MemoryTenantStore) -> None:
    await tenants.write("acme", lambda _: Tenant("acme", TenantState.DELETED))
    await usage.add("one", [hour(), hour(tenant="globex")])
    assert told(await usage.report(ANN)) == []
    assert len(told(await usage.report(EVE))) == 1


async def test_what_is_too_old_goes_by_whole_days_and_does_not_come_back(usage: SearchUsage, clock: Clock) -> None:
    await usage.add("one", [hour(30 * DAY), hour(29 * DAY)])
    days: dict[str, Any] = {"granularity": Granularity.DAY, "since": NOW - 40 * DAY}
    assert await usage.prune() == 0
    assert len(told(await usage.report(ANN, **days))) == 2
    clock.now += 12 * HOUR
    assert await usage.prune() == 2
    assert len(told(await usage.report(ANN, **days))) == 1
    await usage.add("two", [hour(30 * DAY)])
    assert len(told(await usage.report(ANN, **days))) == 1


async def test_a_batch_is_known_for_two_days(usage: SearchUsage, clock: Clock) -> None:
    await usage.add("one", [hour()])
    clock.now += 2 * DAY
    await usage.prune()
    await usage.add("one", [hour()])
    assert (await usage.report(ANN, since=NOW - DAY)).rows.items[0].figures.queries == 1


async def test_a_page_token_belongs_to_its_question_and_outlives_the_hour(usage: SearchUsage, clock: Clock) -> None:
    await usage.add("one", [hour(each * HOUR) for each in range(3)])
    first = await usage.report(ANN, page_size=2)
    clock.now += HOUR
    rest = await usage.report(ANN, page_size=2, page_token=first.rows.next_page_token)
    assert [*told(first), *told(rest)] == [("docs", hour(each * HOUR).start_time, 1) for each in range(3)]
    for other in ({"collection_id": "docs"}, {"granularity": Granularity.DAY}, {"since": NOW - DAY}):
        with pytest.raises(InvalidPageToken):
            await usage.report(ANN, page_token=first.rows.next_page_token, **other)


def test_figures_are_told_as_shares_and_percentiles() -> None:
    latencies = {bucket_of(0.010): 90, bucket_of(0.100): 9, bucket_of(1.0): 1}
    figures = Figures(2**40, 2**40 - 100, 1, 2, 25, latencies)
    message = convert_usage.row_to(UsageRow("acme", Granularity.DAY, NOW, "u", "docs", figures))
    assert (message.collection, message.collection_uid, message.granularity) == ("collections/docs", "u", Usage.DAY)
    assert message.figures.queries == 2**31 - 1
    assert message.figures.cache_hit_rate == 0.25
    latency = message.figures.latency
    percentiles = [each.ToMicroseconds() / 1e6 for each in (latency.p50, latency.p90, latency.p95, latency.p99)]
    assert percentiles == pytest.approx([0.010, 0.010, 0.100, 0.100], rel=0.05)
    nothing = convert_usage.row_to(UsageRow("acme", Granularity.DAY, NOW, "u", "docs", Figures(1, 1))).figures
    assert (nothing.cache_hit_rate, nothing.HasField("latency")) == (0, False)


def test_requests_are_read_as_they_are_meant() -> None:
    request = GetUsageRequest(collection="collections/docs", page_size=3)
    request.start_time.FromDatetime(NOW)
    assert convert_usage.asked_from(request) == {
        "collection_id": "docs",
        "since": NOW,
        "until": None,
        "granularity": Granularity.HOUR,
        "page_size": 3,
        "page_token": "",
        "page": 0,
    }
    for wrong in ("hand book", "collections/", "collections/a/documents/b", "/docs", "docs\n"):
        with pytest.raises(
            InvalidArgument, match=r"^collection: takes collections/\{collection\} or the bare id, found"
        ):
            convert_usage.asked_from(GetUsageRequest(collection=wrong))
    with pytest.raises(InvalidArgument, match="end_time"):
        convert_usage.asked_from(GetUsageRequest(end_time=Timestamp(seconds=10**15)))
    row = RecordUsageRequest.Row(tenant="acme", collection_uid="u", collection_id="docs", queries=1, latencies={3: 1})
    row.time.FromDatetime(NOW)
    (read,) = convert_usage.rows_from(RecordUsageRequest(rows=[row]))
    assert (read.start_time, read.figures) == (NOW - HOUR / 2, Figures(1, latencies={3: 1}))
