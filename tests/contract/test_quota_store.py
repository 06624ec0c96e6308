"""Every store of limits keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from services.mesh.errors import RequestIdReused
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt
from services.system.adapters.memory import MemoryQuotaStore
from services.system.adapters.sql_quotas import SqlQuotaStore
from services.system.ports import QuotaStore
from services.system.records import Quota
from tests.system_records import LONG_AGO, system_database

SET = Quota("acme", Amounts(1, 2, 2**31 - 1, 2**63 - 1), '"one"', LONG_AGO)
KEY = Receipt("operator", "UpdateQuota", "r1", "digest")


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QuotaStore]:
    if request.param == "memory":
        yield MemoryQuotaStore()
    else:
        async with system_database(request.param, request, tmp_path) as database:
            yield SqlQuotaStore(database)


async def test_limits_read_back_as_they_were_set(store: QuotaStore) -> None:
    assert await store.find("acme") is None
    assert await store.write("acme", lambda found: SET) == SET
    assert await store.find("acme") == SET
    changed = replace(SET, limits=Amounts(documents=7), etag='"two"')
    assert await store.write("acme", lambda found: changed if found == SET else SET) == changed
    assert await store.find("acme") == changed
    assert await store.find("globex") is None


async def test_what_was_not_changed_is_not_set(store: QuotaStore) -> None:
    configured = Quota("acme", Amounts(1, 1, 1, 1), '"c"')
    assert await store.write("acme", lambda found: configured) == configured
    assert await store.find("acme") is None


async def test_a_request_that_comes_again_is_answered_as_it_was(store: QuotaStore) -> None:
    assert await store.recall(KEY) is None
    await store.write("acme", lambda found: SET, KEY)
    assert await store.recall(KEY) == SET
    assert await store.write("acme", lambda found: replace(SET, etag='"other"'), KEY) == SET
    with pytest.raises(RequestIdReused):
        await store.recall(replace(KEY, digest="other"))


async def test_of_many_writers_at_once_each_sees_the_one_before(store: QuotaStore) -> None:
    def one_more(found: Quota | None) -> Quota:
        return replace(SET, limits=Amounts(documents=found.limits.documents + 1 if found else 1))

    await asyncio.gather(*(store.write("acme", one_more) for _ in range(20)))
    found = await store.find("acme")
    assert found is not None
    assert found.limits.documents == 20


async def test_an_erased_tenant_has_no_limits_of_its_own(store: QuotaStore) -> None:
    await store.write("acme", lambda found: SET)
    await store.write("globex", lambda found: replace(SET, tenant="globex"))
    assert [await store.erase("acme"), await store.erase("acme")] == [1, 0]
    assert await store.find("acme") is None
    assert await store.find("globex") is not None
