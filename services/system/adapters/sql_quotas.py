"""Limits of tenants in SQL."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert, select, update

from services.mesh.quotas import COUNTED, Amounts
from services.mesh.receipts import Receipt
from services.mesh.sql import Mode, OpenDatabase
from services.system.adapters.sql_tables import QUOTAS, RECEIPTS
from services.system.records import Quota

_CODEC = TypeAdapter(Quota)


class SqlQuotaStore:
    """Fulfils QuotaStore."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database

    async def find(self, tenant: str) -> Quota | None:
        for row in await self._database.read(select(QUOTAS).where(QUOTAS.c.tenant == tenant)):
            return _quota(row)
        return None

    async def write(
        self, tenant: str, change: Callable[[Quota | None], Quota], receipt: Receipt | None = None
    ) -> Quota:
        def work(connection: Connection) -> Quota:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return _CODEC.validate_json(answered)
            row = connection.execute(select(QUOTAS).where(QUOTAS.c.tenant == tenant).with_for_update()).one_or_none()
            current = None if row is None else _quota(row)
            changed = change(current)
            if row is None and changed.update_time:
                connection.execute(insert(QUOTAS), _values(changed))
            elif changed != current:
                connection.execute(update(QUOTAS).where(QUOTAS.c.tenant == tenant).values(_values(changed)))
            RECEIPTS.record(connection, receipt, _CODEC.dump_json(changed))
            return changed

        return await self._database.write(work)

    async def recall(self, receipt: Receipt) -> Quota | None:
        answered = await self._database.run(lambda connection: RECEIPTS.recall(connection, receipt), Mode.ONE_READ)
        return None if answered is None else _CODEC.validate_json(answered)

    async def erase(self, tenant: str) -> int:
        gone = delete(QUOTAS).where(QUOTAS.c.tenant == tenant)
        return await self._database.write(lambda connection: connection.execute(gone).rowcount)


def _values(quota: Quota) -> dict[str, Any]:
    return {"tenant": quota.tenant, **asdict(quota.limits), "update_time": quota.update_time, "etag": quota.etag}


def _quota(row: Any) -> Quota:
    limits = Amounts(*(getattr(row, name) for name in COUNTED))
    return Quota(row.tenant, limits, row.etag, row.update_time)
