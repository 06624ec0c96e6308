"""Tenants that are deleted or being so, in SQL; and what else the system's database keeps of tenants."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert, select, update

from services.mesh.audit import AuditEvent
from services.mesh.receipts import Receipt
from services.mesh.sql import Mode, OpenDatabase
from services.system.adapters.sql_tables import RECEIPTS, TENANTS
from services.system.ports import AuditLog, QuotaStore, RevocationStore, UsageStore
from services.system.records import Part, Tenant, TenantState

_CODEC: Final = TypeAdapter(Tenant)
_ROWS_AT_ONCE: Final = 5_000


class SqlTenantStore:
    """Fulfils TenantStore."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database

    async def find(self, tenant: str) -> Tenant | None:
        found = await self._database.read(select(TENANTS).where(TENANTS.c.tenant == tenant))
        return next(map(_tenant, found), None)

    async def gone(self, tenants: Collection[str]) -> frozenset[str]:
        found = await self._database.read(select(TENANTS.c.tenant).where(TENANTS.c.tenant.in_(tenants)))
        return frozenset(row.tenant for row in found)

    async def deleted(self) -> Mapping[str, datetime]:
        found = await self._database.read(select(TENANTS.c.tenant, TENANTS.c.delete_time))
        return {row.tenant: row.delete_time for row in found}

    async def deleting(self) -> Sequence[Tenant]:
        unfinished = select(TENANTS).where(TENANTS.c.state == TenantState.DELETING).order_by(TENANTS.c.delete_time)
        return [_tenant(row) for row in await self._database.read(unfinished)]

    async def write(
        self, tenant: str, change: Callable[[Tenant | None], Tenant], receipt: Receipt | None = None
    ) -> Tenant:
        named = TENANTS.c.tenant == tenant

        def work(connection: Connection) -> Tenant:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return _CODEC.validate_json(answered)
            row = connection.execute(select(TENANTS).where(named).with_for_update()).one_or_none()
            current = None if row is None else _tenant(row)
            changed = change(current)
            if changed.state is TenantState.ACTIVE:
                connection.execute(delete(TENANTS).where(named))
            elif current is None:
                connection.execute(insert(TENANTS), _values(changed))
            elif changed != current:
                connection.execute(update(TENANTS).where(named).values(_values(changed)))
            RECEIPTS.record(connection, receipt, _CODEC.dump_json(changed))
            return changed

        return await self._database.write(work)

    async def recall(self, receipt: Receipt) -> Tenant | None:
        answered = await self._database.run(lambda connection: RECEIPTS.recall(connection, receipt), Mode.ONE_READ)
        return None if answered is None else _CODEC.validate_json(answered)


class SqlTenantRecords:
    """Fulfils TenantRecords: limits, revocations, audit events, usage, and answers to requests."""

    service: Final = "system"

    def __init__(
        self,
        database: OpenDatabase,
        quotas: QuotaStore,
        revocations: RevocationStore,
        log: AuditLog,
        usage: UsageStore,
    ) -> None:
        self._database = database
        self._quotas = quotas
        self._revocations = revocations
        self._log = log
        self._usage = usage

    async def erase(self, tenant: str) -> bool:
        erased = await self._quotas.erase(tenant) + await self._revocations.erase(tenant)
        erased += await self._log.erase(tenant, _ROWS_AT_ONCE)
        erased += await self._usage.erase(tenant, _ROWS_AT_ONCE)
        erased += await self._database.write(lambda connection: RECEIPTS.erase(connection, tenant, _ROWS_AT_ONCE))
        return not erased and await self._database.compact()

    async def admit(self, tenant: str) -> None:
        """Nothing is kept out."""

    async def record(self, event: AuditEvent) -> None:
        await self._log.record([event])


def _values(tenant: Tenant) -> dict[str, Any]:
    return {**asdict(tenant), "state": str(tenant.state)}


def _tenant(row: Any) -> Tenant:
    values = dict(row._mapping)
    parts = tuple(Part(**part) for part in values.pop("parts"))
    return Tenant(**{**values, "state": TenantState(values["state"])}, parts=parts)
