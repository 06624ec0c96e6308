"""Events get from the stream into the log whatever fails in between."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable
from services.system.adapters.memory import MemoryAuditLog
from services.system.audit import AUDIT_EVENTS
from services.system.audit_intake import AuditIntake
from services.system.ports import Taken
from tests.system_records import LONG_AGO, event


class FakeStream:
    """A stream in memory: hands out what is not settled."""

    def __init__(self, *entries: Taken) -> None:
        self.entries = {each.entry_id: each for each in entries}
        self.down = False

    async def take(self) -> Sequence[Taken]:
        return list(self.entries.values())

    async def settle(self, entry_ids: Sequence[str]) -> None:
        if self.down:
            raise DependencyUnavailable("the audit stream does not answer")
        for entry_id in entry_ids:
            del self.entries[entry_id]


class PickyLog(MemoryAuditLog):
    """A log that may be down, and cannot hold one of the events."""

    def __init__(self) -> None:
        super().__init__()
        self.down = False
        self.chokes_on = ""

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.down:
            raise DependencyUnavailable("the system's database does not answer")
        if self.chokes_on in [each.event_id for each in events]:
            raise ValueError("cannot be held")
        await super().record(events)


def entries(*numbers: int) -> list[Taken]:
    return [Taken(f"{number}-0", event(number, code="OK")) for number in numbers]


async def recorded(log: MemoryAuditLog) -> list[int]:
    page = await log.list_events("acme", AUDIT_EVENTS.query(order_by="event_time", page_size=100))
    return [int(each.event_id, 16) for each in page.items]


def intake(stream: FakeStream, log: MemoryAuditLog, days: int = 365) -> AuditIntake:
    return AuditIntake(stream, log, retention=timedelta(days=days), clock=lambda: LONG_AGO + timedelta(days=10))


async def test_what_the_stream_has_is_recorded_then_settled() -> None:
    stream, log = FakeStream(*entries(1, 2, 3)), PickyLog()
    assert await intake(stream, log).take_in() == 3
    assert (await recorded(log), stream.entries) == ([1, 2, 3], {})


async def test_while_the_database_is_away_events_stay_in_the_stream() -> None:
    stream, log = FakeStream(*entries(1)), PickyLog()
    log.down = True
    with pytest.raises(DependencyUnavailable):
        await intake(stream, log).take_in()
    assert list(stream.entries) == ["1-0"]
    log.down = False
    await intake(stream, log).take_in()
    assert (await recorded(log), stream.entries) == ([1], {})


async def test_what_was_recorded_and_not_settled_is_recorded_once() -> None:
    stream, log = FakeStream(*entries(1, 2)), PickyLog()
    stream.down = True
    with pytest.raises(DependencyUnavailable):
        await intake(stream, log).take_in()
    stream.down = False
    await intake(stream, log).take_in()
    assert (await recorded(log), stream.entries) == ([1, 2], {})


async def test_one_that_cannot_be_held_or_read_keeps_back_no_other() -> None:
    stream, log = FakeStream(*entries(1, 2, 3), Taken("9-0", None, b"garbage")), PickyLog()
    log.chokes_on = event(2).event_id
    await intake(stream, log).take_in()
    assert (await recorded(log), stream.entries) == ([1, 3], {})


async def test_a_database_that_goes_while_events_are_recorded_one_by_one_loses_none() -> None:
    class GoingLog(PickyLog):
        async def record(self, events: Sequence[AuditEvent]) -> None:
            self.down = len(events) == 1 and events[0].event_id == event(3).event_id
            await super().record(events)

    stream, log = FakeStream(*entries(1, 2, 3)), GoingLog()
    log.chokes_on = event(2).event_id
    with pytest.raises(DependencyUnavailable):
        await intake(stream, log).take_in()
    assert len(stream.entries) == 3


async def test_events_older_than_the_retention_are_dropped() -> None:
    log = PickyLog()
    await log.record([event(number, event_time=LONG_AGO + timedelta(days=number)) for number in range(10)])
    assert await intake(FakeStream(), log, days=5).prune() == 5
    assert await recorded(log) == [5, 6, 7, 8, 9]
