"""Every search is counted once, whatever becomes of the batches its figures travel in."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from services.mesh.errors import InvalidArgument
from services.mesh.latency import bucket_of
from services.retrieval.collection import CollectionView
from services.retrieval.tally import HourTally
from services.retrieval.usage import MAX_ROWS, Usage
from tests.retrieval_fakes import FakeUsageSink, view

DOCS, MANUALS = view("docs"), view("manuals")
DAY_S = 24 * 3600


class Clock:
    def __init__(self) -> None:
        self.now_s = 100 * 3600.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sink() -> FakeUsageSink:
    return FakeUsageSink()


@pytest.fixture
def usage(sink: FakeUsageSink, clock: Clock) -> Usage:
    return Usage(sink, interval_s=0.001, most=10 * MAX_ROWS, clock=clock)


def answered(usage: Usage, tenant: str, views: Sequence[CollectionView], seconds: float, **told: Any) -> None:
    search = usage.search(tenant)
    search.views = views
    for name, value in told.items():
        setattr(search, name, value)
    usage.answered(search, seconds)


def failed(usage: Usage, tenant: str, views: Sequence[CollectionView]) -> None:
    search = usage.search(tenant)
    search.views = views
    usage.failed(search)


def queries(tallies: Sequence[HourTally]) -> dict[tuple[str, str, int], int]:
    return {(each.tenant, each.collection_id, each.hour): each.queries for each in tallies}


class BusySink(FakeUsageSink):
    """While it takes a batch, another search ends."""

    usage: Usage

    async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
        await super().record(batch_id, tallies)
        answered(self.usage, "acme", [DOCS], 0.010, total=1)


async def test_what_is_counted_while_figures_are_handed_on_waits_for_the_next_time(clock: Clock) -> None:
    sink = BusySink()
    sink.usage = usage = Usage(sink, interval_s=0.001, clock=clock)
    for number in range(MAX_ROWS):  # a tally of the tenant's own besides: one batch, and one more row
        answered(usage, "globex", [view(f"docs-{number}")], 0.010)
    await usage.flush()
    assert [len(batch) for batch in sink.batches.values()] == [MAX_ROWS, 1]
    await usage.flush()
    assert queries(list(sink.batches.values())[2]) == {("acme", "", 100): 2, ("acme", "docs", 100): 2}


async def test_a_search_is_told_by_tenant_collection_and_hour(usage: Usage, sink: FakeUsageSink, clock: Clock) -> None:
    answered(usage, "acme", [DOCS, MANUALS], 0.010, total=3, degraded=True)
    answered(usage, "acme", [DOCS], 0.020, total=0, cached=True)
    answered(usage, "globex", [DOCS], 0.010, total=1)
    failed(usage, "acme", [DOCS])
    failed(usage, "acme", [])
    clock.now_s += 3600
    answered(usage, "acme", [DOCS], 0.010, total=1)
    await usage.flush()
    fast, slow = bucket_of(0.010), bucket_of(0.020)
    assert sink.tallies == [
        HourTally("acme", "", "", 100, 4, 2, 1, 1, 1, {fast: 1, slow: 1}),
        HourTally("acme", "uid-docs", "docs", 100, 3, 1, 1, 1, 1, {fast: 1, slow: 1}),
        HourTally("acme", "uid-manuals", "manuals", 100, 1, 0, 1, 0, 0, {fast: 1}),
        HourTally("globex", "", "", 100, 1, 0, 0, 0, 0, {fast: 1}),
        HourTally("globex", "uid-docs", "docs", 100, 1, 0, 0, 0, 0, {fast: 1}),
        HourTally("acme", "", "", 101, 1, 0, 0, 0, 0, {fast: 1}),
        HourTally("acme", "uid-docs", "docs", 101, 1, 0, 0, 0, 0, {fast: 1}),
    ]


async def test_what_was_handed_on_is_not_handed_on_again(usage: Usage, sink: FakeUsageSink) -> None:
    failed(usage, "acme", [])
    await usage.flush()
    await usage.flush()
    failed(usage, "acme", [])
    await usage.flush()
    assert [queries([each]) for each in sink.tallies] == [{("acme", "", 100): 1}] * 2
    assert len(set(sink.sent)) == 2


async def test_what_is_not_taken_waits_and_what_is_counted_meanwhile_with_it(usage: Usage, sink: FakeUsageSink) -> None:
    sink.down = True
    failed(usage, "acme", [DOCS])
    await usage.flush()
    failed(usage, "acme", [DOCS])
    await usage.flush()
    assert len(sink.sent) == 2
    sink.down = False
    await usage.flush()
    assert sum(each.queries for each in sink.tallies if each.collection_uid) == 2


async def test_a_batch_that_may_have_arrived_is_sent_again_as_it_was(usage: Usage, sink: FakeUsageSink) -> None:
    sink.answers = False
    failed(usage, "acme", [])
    await usage.flush()
    failed(usage, "acme", [])
    sink.answers = True
    await usage.flush()
    first, again, second = sink.sent
    assert first == again != second
    assert [len(sink.batches[each]) for each in (first, second)] == [1, 1]
    assert [each.queries for each in sink.tallies] == [1, 1], "each search once"


async def test_a_flush_that_is_cut_off_sends_the_same_batch_at_the_end(sink: FakeUsageSink) -> None:
    class SlowSink(FakeUsageSink):
        def __init__(self) -> None:
            super().__init__()
            self.asked, self.go_on = asyncio.Event(), asyncio.Event()

        async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
            self.asked.set()
            if not self.sent:
                self.sent.append(batch_id)
                await self.go_on.wait()
            await super().record(batch_id, tallies)

    slow = SlowSink()
    usage = Usage(slow, interval_s=0.001)
    async with usage.running():
        failed(usage, "acme", [])
        await slow.asked.wait()
    assert len(slow.sent) == 2
    assert len(set(slow.sent)) == 1


async def test_it_hands_on_by_itself_and_once_more_at_the_end(sink: FakeUsageSink) -> None:
    usage = Usage(sink, interval_s=0.001)
    async with usage.running():
        failed(usage, "acme", [])
        while not sink.batches:
            await asyncio.sleep(0.001)
    usage = Usage(sink, interval_s=600)
    async with usage.running():
        failed(usage, "globex", [])
    assert [each.tenant for each in sink.tallies] == ["acme", "globex"]


async def test_many_collections_go_in_batches_that_fit_a_message(usage: Usage, sink: FakeUsageSink) -> None:
    for number in range(MAX_ROWS):
        failed(usage, "acme", [view(f"c{number}")])
    await usage.flush()
    assert [len(each) for each in sink.batches.values()] == [MAX_ROWS, 1]


async def test_what_waits_is_bounded(sink: FakeUsageSink, clock: Clock) -> None:
    usage = Usage(sink, most=2, clock=clock)
    for _ in range(3):
        answered(usage, "acme", [DOCS, MANUALS], 0.01, total=1)
    await usage.flush()
    assert [(each.collection_id, each.queries) for each in sink.tallies] == [("", 3), ("docs", 3)]
    answered(usage, "acme", [MANUALS], 0.01, total=1)
    await usage.flush()
    assert sink.tallies[-1].collection_id == "manuals"


async def test_a_batch_is_given_up_before_the_sink_forgets_it(usage: Usage, sink: FakeUsageSink, clock: Clock) -> None:
    sink.answers = False
    failed(usage, "acme", [])
    await usage.flush()
    clock.now_s += DAY_S + 1
    sink.answers = True
    failed(usage, "globex", [])
    await usage.flush()
    assert len(sink.sent) == 2
    assert sink.sent[0] != sink.sent[1]


async def test_a_batch_that_cannot_be_taken_does_not_hold_up_the_next(clock: Clock) -> None:
    class RefusingSink(FakeUsageSink):
        async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
            if not self.sent:
                self.sent.append(batch_id)
                raise InvalidArgument.of("rows", "is wrong")
            await super().record(batch_id, tallies)

    refusing = RefusingSink()
    usage = Usage(refusing, clock=clock)
    failed(usage, "acme", [])
    await usage.flush()
    failed(usage, "globex", [])
    await usage.flush()
    assert [each.tenant for each in refusing.tallies] == ["globex"]
