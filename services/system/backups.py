"""Backups by themselves: one a day, by whichever process comes first; and what is known of the last one."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from datetime import time as TimeOfDay
from functools import cache
from typing import Final, Protocol

import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from ragweave.backups.errors import BackupBusy, BackupError
from ragweave.backups.manifest import Manifest, time_of
from ragweave.backups.shelf import Shelf
from services.mesh.maintenance import Step
from services.system.ports import TenantStore

# After a backup that failed: what was wrong may be over by then, and each attempt reads much.
_REST_S: Final = 600.0


class Maker(Protocol):
    """Makes backups."""

    async def take(self, *, unless_after: str | None = None) -> Manifest:
        """Makes one; where there is one after the one named, or any after "", that is the answer.

        Raises:
            BackupBusy: Another process makes one.
            BackupError: It cannot be made.
        """
        ...


@cache
def _families(registry: CollectorRegistry) -> tuple[Gauge, Gauge, Gauge, Gauge, Counter]:
    """What the newest backup is like; made once for a registry."""
    return (
        Gauge("ragweave_backup_last_success_timestamp_seconds", "When the newest backup is of.", registry=registry),
        Gauge("ragweave_backup_size_bytes", "What the newest backup takes when it is restored.", registry=registry),
        Gauge("ragweave_backup_duration_seconds", "How long the newest backup took.", registry=registry),
        Gauge("ragweave_backup_held_seconds", "How long writes waited for the newest backup.", registry=registry),
        Counter("ragweave_backup_failures", "Backups that could not be made.", registry=registry),
    )


class Backups:
    """The steps of maintenance that see to backups.

    Args:
        at: Time of the day, in UTC, at which one is due; None makes none.
        daily: Of how many days the last backup stays.
        weekly: Of how many weeks.
    """

    def __init__(
        self,
        shelf: Shelf,
        maker: Maker,
        tenants: TenantStore,
        *,
        at: TimeOfDay | None,
        daily: int,
        weekly: int,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._shelf = shelf
        self._maker = maker
        self._tenants = tenants
        self._at = at
        self._daily = daily
        self._weekly = weekly
        self._clock = clock
        self._time, self._size, self._duration, self._held, self._failures = _families(registry)
        self._shown = ""
        self._rest_until_s = float("-inf")
        self._log = structlog.get_logger("system.backups")

    @property
    def steps(self) -> Sequence[Step]:
        return Step("note deleted tenants", self._note_deleted), Step("back up", self._back_up)

    async def _note_deleted(self) -> int:
        """The shelf knows of deletions though all else may be lost: no restore brings such a tenant back."""
        if self._at is None and not self._shelf.names():
            return 0
        deleted = await self._tenants.deleted()
        known = {tenant: when.astimezone(UTC).isoformat(timespec="microseconds") for tenant, when in deleted.items()}
        await asyncio.to_thread(self._shelf.note_erased, known)
        return 0

    async def _back_up(self) -> int:
        """Makes a backup where one is due, deletes those that need not stay, and shows what the newest is like."""
        made = 0
        if self._is_due() and time.monotonic() >= self._rest_until_s:
            with suppress(BackupBusy):  # then there is one when this looks again
                made = await self._make()
        await asyncio.to_thread(self._show)
        return made

    def _is_due(self) -> bool:
        if self._at is None:
            return False
        now = self._clock()
        last = datetime.combine(now.date(), self._at, UTC)
        if last > now:
            last -= timedelta(days=1)
        names = self._shelf.names()
        return not names or time_of(names[-1]) < last

    async def _make(self) -> int:
        names = self._shelf.names()
        try:
            manifest = await self._maker.take(unless_after=names[-1] if names else "")
            with self._shelf.working():
                pruned = await asyncio.to_thread(self._shelf.prune, daily=self._daily, weekly=self._weekly)
        except BackupBusy:
            raise
        except Exception as error:
            self._failures.inc()
            self._rest_until_s = time.monotonic() + _REST_S
            if not isinstance(error, BackupError):
                raise
            self._log.error("backup failed", reason=str(error), again_in_s=_REST_S)
            return 0
        self._log.info(
            "backed up",
            backup=manifest.name,
            bytes=manifest.disk_bytes,
            copied_bytes=manifest.copied_bytes,
            took_s=manifest.took_s,
            held_s=manifest.held_s,
            pruned=pruned,
        )
        return 1

    def _show(self) -> None:
        names = self._shelf.names()
        if not names or names[-1] == self._shown:
            return
        newest = self._shelf.newest()
        if newest is not None:
            self._time.set(newest.moment.timestamp())
            self._size.set(newest.disk_bytes)
            self._duration.set(newest.took_s)
            self._held.set(newest.held_s)
        self._shown = names[-1]
