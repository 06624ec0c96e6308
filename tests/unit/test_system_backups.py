"""Backups are made by themselves once a day, by one process of several, and a failure is seen."""

from datetime import UTC, datetime, timedelta
from datetime import time as TimeOfDay
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from ragweave.backups.errors import BackupBusy, BackupError
from ragweave.backups.manifest import Manifest, name_at
from ragweave.backups.shelf import Shelf
from services.system.adapters.memory import MemoryTenantStore
from services.system.backups import Backups
from services.system.records import Tenant, TenantState
from services.system.settings import BackupSettings

NIGHT = datetime(2026, 11, 20, 3, 15, tzinfo=UTC)


class FakeMaker:
    """Makes backups that hold nothing, or fails as it is told."""

    def __init__(self, shelf: Shelf, world: "World") -> None:
        self._shelf = shelf
        self._world = world
        self.failing: Exception | None = None

    async def take(self, *, unless_after: str | None = None) -> Manifest:
        if self.failing:
            raise self.failing
        names = self._shelf.names()
        if names and unless_after is not None and names[-1] > unless_after:
            return self._shelf.manifest(names[-1])
        name = name_at(self._world.now)
        (self._shelf.folder / name).mkdir(parents=True)
        made = Manifest(name, self._world.now.isoformat(), "0.1.0", held_s=0.02, took_s=3.0, disk_bytes=1000)
        made.store(self._shelf.folder / name)
        return made


class World:
    """A shelf, a clock, and any number of processes that look after backups."""

    def __init__(self, folder: Path) -> None:
        self.now = NIGHT - timedelta(hours=1)
        self.shelf = Shelf(folder / "backups")
        self.maker = FakeMaker(self.shelf, self)
        self.tenants = MemoryTenantStore()
        self.registry = CollectorRegistry()

    def process(self, at: TimeOfDay | None = TimeOfDay(3, 15)) -> Backups:
        return Backups(
            self.shelf,
            self.maker,
            self.tenants,
            at=at,
            daily=2,
            weekly=1,
            clock=lambda: self.now,
            registry=self.registry,
        )

    def figure(self, name: str) -> float:
        return self.registry.get_sample_value(f"ragweave_backup_{name}") or 0.0


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def sweep(backups: Backups) -> int:
    """What one sweep of the maintenance loop does."""
    return sum([await step.work() for step in backups.steps])


async def test_a_backup_is_made_once_a_day_at_its_time_by_whichever_process_comes_first(world: World) -> None:
    one, other = world.process(), world.process()
    assert [await sweep(one), await sweep(other)] == [1, 0]  # there was none
    assert await sweep(one) == 0
    world.now = NIGHT
    assert [await sweep(other), await sweep(one)] == [1, 0]
    world.now = NIGHT + timedelta(hours=23, minutes=59)
    assert await sweep(one) == 0
    world.now = NIGHT + timedelta(days=1)
    assert await sweep(one) == 1
    assert len(world.shelf.names()) == 2  # and the first one went: two days stay, in one week


async def test_a_backup_that_was_due_while_nothing_ran_is_made_as_soon_as_something_does(world: World) -> None:
    await sweep(world.process())
    world.now = NIGHT + timedelta(days=3, hours=7)
    assert await sweep(world.process()) == 1


async def test_nothing_is_made_where_no_time_is_set_but_figures_of_what_is_there_are_shown(world: World) -> None:
    assert await sweep(world.process(at=None)) == 0
    assert not world.shelf.folder.exists()
    made = await world.maker.take()
    await sweep(world.process(at=None))
    assert world.figure("last_success_timestamp_seconds") == made.moment.timestamp()
    assert [world.figure(name) for name in ("size_bytes", "duration_seconds", "held_seconds")] == [1000, 3.0, 0.02]


async def test_a_backup_that_fails_is_counted_and_left_alone_for_a_while(world: World) -> None:
    process = world.process()
    world.maker.failing = BackupError("no space is left")
    assert await sweep(process) == 0
    world.maker.failing = None
    assert await sweep(process) == 0  # not at once
    assert world.figure("failures_total") == 1
    assert await sweep(world.process()) == 1


async def test_while_another_process_makes_one_nothing_is_made_and_nothing_has_failed(world: World) -> None:
    process = world.process()
    world.maker.failing = BackupBusy("another process")
    assert await sweep(process) == 0
    world.maker.failing = None
    assert await sweep(process) == 1
    assert world.figure("failures_total") == 0


async def test_a_tenant_that_is_deleted_is_noted_on_the_shelf(world: World) -> None:
    process = world.process()
    await sweep(process)
    await world.tenants.write("acme", lambda _: Tenant("acme", TenantState.DELETED, delete_time=NIGHT))
    await sweep(process)
    await world.tenants.write("acme", lambda _: Tenant("acme"))  # let in again
    await sweep(process)
    assert world.shelf.erased() == {"acme": "2026-11-20T03:15:00.000000+00:00"}


def test_the_time_of_backups_is_one_of_the_day_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BackupSettings().at is None
    monkeypatch.setenv("RAGWEAVE_BACKUP_AT", "")
    assert BackupSettings().at is None
    monkeypatch.setenv("RAGWEAVE_BACKUP_AT", "03:15")
    assert BackupSettings().at == TimeOfDay(3, 15)
    monkeypatch.setenv("RAGWEAVE_BACKUP_AT", "daily")
    with pytest.raises(ValidationError):
        BackupSettings()
