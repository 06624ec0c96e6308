"""Every store of audit events keeps the same promises."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from services.mesh.audit import AuditEvent
from services.system.adapters.memory import MemoryAuditLog
from services.system.adapters.sql_audit import SqlAuditLog
from services.system.audit import AUDIT_EVENTS
from services.system.ports import AuditLog
from tests.system_records import LONG_AGO, event, system_database


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AuditLog]:
    if request.param == "memory":
        yield MemoryAuditLog()
    else:
        async with system_database(request.param, request, tmp_path) as database:
            yield SqlAuditLog(database)


async def listed(log: AuditLog, filter: str = "", *, tenant: str = "acme", order_by: str = "") -> list[AuditEvent]:
    query = AUDIT_EVENTS.query(filter=filter, order_by=order_by, page_size=100)
    return list((await log.list_events(tenant, query)).items)


async def test_an_event_reads_back_as_it_was_recorded(log: AuditLog) -> None:
    full = event(1, service="gateway", code="NOT_FOUND", duration_ms=1.5, validate_only=True, resource="büro/☃")
    await log.record([full])
    assert await listed(log) == [full]


async def test_the_newest_come_first_and_pages_follow_one_another(log: AuditLog) -> None:
    await log.record([event(number) for number in range(7)])
    seen: list[AuditEvent] = []
    token = ""
    while True:
        page = await log.list_events("acme", AUDIT_EVENTS.query(page_size=3, page_token=token))
        assert page.total_size == 7
        seen += page.items
        if not (token := page.next_page_token):
            break
    assert seen == [event(number) for number in reversed(range(7))]


async def test_events_of_one_moment_each_come_once(log: AuditLog) -> None:
    await log.record([event(number, event_time=LONG_AGO) for number in range(5)])
    first = await log.list_events("acme", AUDIT_EVENTS.query(page_size=2))
    rest = await log.list_events("acme", AUDIT_EVENTS.query(page_size=100, page_token=first.next_page_token))
    assert [each.event_id for each in (*first.items, *rest.items)] == [f"{n:016x}" for n in reversed(range(5))]


@pytest.mark.parametrize("ended_first", [False, True])
@pytest.mark.parametrize("together", [False, True])
async def test_the_end_of_an_event_completes_it_in_whatever_order_and_however_often(
    log: AuditLog, ended_first: bool, together: bool
) -> None:
    begun = event(1, resource="")
    ended = replace(begun, code="OK", duration_ms=3.0, resource="collections/made")
    batch = [ended, begun] if ended_first else [begun, ended]
    for each in (batch,) * 2 if together else [[one] for one in batch] * 2:
        await log.record(each)
    (found,) = await listed(log)
    assert (found, found.outcome) == (ended, "SUCCEEDED")


async def test_an_event_without_its_end_is_unknown(log: AuditLog) -> None:
    await log.record([event(1)])
    (found,) = await listed(log, 'outcome = "UNKNOWN"')
    assert (found.code, found.duration_ms) == ("", 0.0)


@pytest.mark.parametrize(
    ("filter", "numbers"),
    [
        ('outcome = "REFUSED"', [2]),
        ('code = "OK" OR code = "UNAVAILABLE"', [3, 1]),
        ('subject = "bob"', [3]),
        ('resource = "collections/c2"', [2]),
        ('resource : "collections/*"', [3, 2, 1]),
        ('method = "/ragweave.v1.CollectionService/DeleteCollection" AND event_time >= "2024-05-01T12:00:02Z"', [3, 2]),
        ("validate_only = true", [1]),
        ('call_id = "call-3"', [3]),
        ('name = "auditEvents/0000000000000002"', [2]),
    ],
)
async def test_filters_find_by_field(log: AuditLog, filter: str, numbers: list[int]) -> None:
    await log.record(
        [
            event(1, code="OK", validate_only=True),
            event(2, code="PERMISSION_DENIED"),
            event(3, code="UNAVAILABLE", subject="bob"),
        ]
    )
    assert [int(each.event_id, 16) for each in await listed(log, filter)] == numbers


async def test_another_tenants_events_do_not_exist(log: AuditLog) -> None:
    await log.record([event(1), event(2, tenant="other")])
    assert [each.tenant for each in await listed(log)] == ["acme"]
    assert await listed(log, tenant="nobody") == []


async def test_old_events_are_pruned_a_part_at_a_time_and_no_others(log: AuditLog) -> None:
    await log.record([event(number) for number in range(5)])
    before = LONG_AGO + timedelta(seconds=3)
    assert [await log.prune(before, 2) for _ in range(3)] == [2, 1, 0]
    assert [each.event_id for each in await listed(log)] == [f"{4:016x}", f"{3:016x}"]


async def test_a_tenants_events_are_erased_a_part_at_a_time_and_no_others(log: AuditLog) -> None:
    await log.record([event(number) for number in range(3)] + [event(9, tenant="other")])
    assert [await log.erase("acme", 2) for _ in range(3)] == [2, 1, 0]
    assert len(await listed(log, tenant="other")) == 1
