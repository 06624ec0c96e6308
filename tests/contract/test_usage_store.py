"""Every store of usage keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.mesh.lists import Page
from services.system.adapters.memory import MemoryUsageStore
from services.system.adapters.sql_usage import SqlUsageStore
from services.system.ports import Asked, UsageStore
from services.system.records import Figures, Granularity, UsageRow
from services.system.usage import ROWS
from tests.system_records import system_database

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[UsageStore]:
    if request.param == "memory":
        yield MemoryUsageStore()
    else:
        async with system_database(request.param, request, tmp_path) as database:
            yield SqlUsageStore(database)


def row(
    collection: str = "docs", hour: int = 0, *, tenant: str = "acme", uid: str | None = None, n: int = 1
) -> UsageRow:
    """Figures, n times, of a collection in an hour after noon; of all searches where it is empty."""
    figures = Figures(n * 5, n, n * 2, n * 3, n * 4, {0: n, 70: n * 2, 180: n})
    key = f"uid-{collection}" if collection else ""
    return UsageRow(tenant, Granularity.HOUR, NOON + hour * HOUR, key if uid is None else uid, collection, figures)


def asked(since: int = 0, until: int = 24, collection: str = "", tenant: str = "acme") -> Asked:
    return Asked(tenant, Granularity.HOUR, NOON + since * HOUR, NOON + until * HOUR, collection)


async def page(store: UsageStore, of: Asked, token: str = "", page_size: int = 100) -> Page[UsageRow]:
    query = ROWS.query(order_by="start_time desc, collection_id", page_size=page_size, page_token=token)
    return await store.list_rows(of, query)


async def rows(store: UsageStore, of: Asked) -> list[UsageRow]:
    return list((await page(store, of)).items)


async def test_rows_of_the_same_key_add_up_and_others_stay_apart(store: UsageStore) -> None:
    assert await store.add("one", [row(), row("manuals"), row("docs", 1)], NOON)
    assert await store.add("two", [row(n=2), row(tenant="globex"), row(uid="another")], NOON)
    assert sorted(await rows(store, asked()), key=lambda each: (each.start_time, each.collection_uid)) == [
        row(uid="another"),
        row(n=3),
        row("manuals"),
        row("docs", 1),
    ]
    assert await rows(store, asked(tenant="globex")) == [row(tenant="globex")]


async def test_a_batch_that_comes_again_changes_nothing(store: UsageStore) -> None:
    assert await store.add("one", [row()], NOON)
    assert not await store.add("one", [row(), row("manuals")], NOON)
    assert await rows(store, asked()) == [row()]
    assert await store.forget(NOON) == 0
    assert not await store.add("one", [row()], NOON)
    assert await store.forget(NOON + HOUR) == 1
    assert await store.add("one", [row()], NOON)
    assert await store.add("empty", [], NOON)


async def test_batches_of_many_at_once_are_all_counted_and_each_once(store: UsageStore) -> None:
    batches = [(f"batch-{number}", [row("docs", hour) for hour in (number % 2, 2)]) for number in range(8)]
    await asyncio.gather(*(store.add(batch, each, NOON) for batch, each in batches * 2))
    assert await rows(store, asked()) == [row("docs", 2, n=8), row("docs", 1, n=4), row("docs", n=4)]


async def test_pages_lead_through_the_latest_first(store: UsageStore) -> None:
    every = [row(each, hour) for hour in (2, 1, 0) for each in ("a", "b", "c")]
    await store.add("one", [*every, row("")], NOON)
    token, found = "", list[UsageRow]()
    while True:
        here = await page(store, asked(), token, 4)
        assert here.total_size == 9
        found += here.items
        if not (token := here.next_page_token):
            break
    assert found == every


async def test_a_span_has_its_begin_and_not_its_end_and_one_collection_where_asked(store: UsageStore) -> None:
    await store.add("one", [row(each, hour) for each in ("docs", "manuals") for hour in range(4)], NOON)
    assert await rows(store, asked(1, 3, "docs")) == [row("docs", 2), row("docs", 1)]
    assert await rows(store, asked(4)) == []
    assert await rows(store, Asked("acme", Granularity.DAY, NOON, NOON + 24 * HOUR)) == []


async def test_a_total_is_of_a_collection_or_of_all_searches_of_the_tenant(store: UsageStore) -> None:
    await store.add("one", [row("docs"), row("docs", 1), row("manuals"), row("", n=2), row("", 1)], NOON)
    assert await store.total(asked()) == row(n=3).figures
    assert await store.total(asked(0, 1)) == row(n=2).figures
    assert await store.total(asked(collection="docs")) == row(n=2).figures
    assert await store.total(asked(collection="nothing")) == Figures()


async def test_old_rows_are_dropped_and_a_tenants_too_so_many_at_a_time(store: UsageStore) -> None:
    await store.add("one", [row("docs", hour, tenant=who) for who in ("acme", "globex") for hour in range(4)], NOON)
    assert await store.prune(NOON + 2 * HOUR, 3) == 3
    assert await store.prune(NOON + 2 * HOUR, 3) == 1
    assert await store.prune(NOON + 2 * HOUR, 3) == 0
    assert await rows(store, asked()) == [row("docs", 3), row("docs", 2)]
    assert await store.erase("acme", 1) == 1
    assert await store.erase("acme", 9) == 1
    assert await store.erase("acme", 9) == 0
    assert len(await rows(store, asked(tenant="globex"))) == 2


async def test_figures_of_years_fit(store: UsageStore) -> None:
    await store.add("one", [row(n=2**33)], NOON)
    await store.add("two", [row(n=2**33)], NOON)
    assert await rows(store, asked()) == [row(n=2**34)]
