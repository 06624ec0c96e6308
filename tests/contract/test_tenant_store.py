"""Every store of tenants keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.mesh.errors import RequestIdReused
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryTenantStore
from services.system.adapters.sql_tenants import SqlTenantStore
from services.system.ports import TenantStore
from services.system.records import Part, Tenant, TenantState
from tests.system_records import LONG_AGO, system_database

PARTS = (Part("collections", erased=True, confirmed=True), Part("jobs", code=14, message="jobs is unavailable"))
GOING = Tenant("acme", TenantState.DELETING, PARTS, "ann", LONG_AGO)
KEY = Receipt("operator", "DeleteTenant", "r1", "digest")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[TenantStore]:
    if request.param == "memory":
        yield MemoryTenantStore()
    else:
        async with system_database(request.param, request, tmp_path) as database:
            yield SqlTenantStore(database)


async def test_a_tenant_reads_back_as_it_was_written(store: TenantStore) -> None:
    assert await store.find("acme") is None
    assert await store.write("acme", lambda found: GOING) == GOING
    assert await store.find("acme") == GOING
    gone = replace(GOING, state=TenantState.DELETED, deny_time=LONG_AGO, purge_time=LONG_AGO + timedelta(days=1))
    assert await store.write("acme", lambda found: gone if found == GOING else GOING) == gone
    assert await store.find("acme") == gone
    assert await store.find("globex") is None


async def test_those_whose_deletion_has_not_ended_are_listed(store: TenantStore) -> None:
    await store.write("acme", lambda found: GOING)
    await store.write("gone", lambda found: replace(GOING, tenant="gone", state=TenantState.DELETED))
    assert await store.deleting() == [GOING]


async def test_nothing_stays_recorded_of_an_active_one(store: TenantStore) -> None:
    await store.write("acme", lambda found: GOING)
    assert await store.write("acme", lambda found: Tenant("acme")) == Tenant("acme")
    assert await store.find("acme") is None


async def test_a_request_that_comes_again_is_answered_as_it_was(store: TenantStore) -> None:
    assert await store.recall(KEY) is None
    await store.write("acme", lambda found: GOING, KEY)
    assert await store.recall(KEY) == GOING
    assert await store.write("acme", lambda found: Tenant("acme"), KEY) == GOING
    with pytest.raises(RequestIdReused):
        await store.recall(replace(KEY, digest="other"))


async def test_of_many_writers_at_once_each_sees_the_one_before(store: TenantStore) -> None:
    def one_more(found: Tenant | None) -> Tenant:
        parts = found.parts if found else ()
        return replace(GOING, parts=(*parts, Part(f"s{len(parts)}")))

    await asyncio.gather(*(store.write("acme", one_more) for _ in range(10)))
    found = await store.find("acme")
    assert found is not None
    assert [part.service for part in found.parts] == [f"s{number}" for number in range(10)]
