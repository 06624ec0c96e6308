"""Every store of tenants keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from services.mesh.errors import RequestIdReused
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryTenantStore
from services.system.adapters.sql_audit import SqlAuditLog
from services.system.adapters.sql_quotas import SqlQuotaStore
from services.system.adapters.sql_revocations import SqlRevocationStore
from services.system.adapters.sql_tables import METADATA
from services.system.adapters.sql_tenants import SqlTenantRecords, SqlTenantStore
from services.system.adapters.sql_usage import SqlUsageStore
from services.system.ports import TenantStore
from services.system.records import Figures, Granularity, Part, Tenant, TenantState, UsageRow
from tests.system_records import LONG_AGO, event, revocation, system_database

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


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_nothing_the_system_keeps_of_an_erased_tenant_is_left(
    engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with system_database(engine, request, tmp_path) as database:
        log, usage, revocations = SqlAuditLog(database), SqlUsageStore(database), SqlRevocationStore(database)
        records = SqlTenantRecords(database, SqlQuotaStore(database), revocations, log, usage)
        for number, tenant in enumerate(("acme", "globex")):
            await log.record([event(number, tenant=tenant)])
            await revocations.add(revocation(tenant=tenant))
            row = UsageRow(tenant, Granularity.HOUR, LONG_AGO, "u", "docs", Figures(1))
            await usage.add(tenant, [row], LONG_AGO)

        async def rows(tenant: str) -> dict[str, int]:
            tables = {name: table for name, table in METADATA.tables.items() if "tenant" in table.c}
            counted = {
                name: len(await database.read(select(table).where(table.c.tenant == tenant)))
                for name, table in tables.items()
            }
            return {name: count for name, count in counted.items() if count}

        before = await rows("globex")
        assert before == {"audit_events": 1, "revocations": 1, "usage": 1} == await rows("acme")
        while not await records.erase("acme"):
            pass
        assert (await rows("acme"), await rows("globex")) == ({}, before)
