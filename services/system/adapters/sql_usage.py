"""Figures of searches in SQL."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from services.mesh.lists import ListQuery, Page
from services.mesh.sql import Columns, Mode, OpenDatabase, listed
from services.system.adapters.sql_tables import USAGE, USAGE_BATCHES
from services.system.ports import Asked
from services.system.records import SEARCHES, Figures, Granularity, UsageRow
from services.system.usage import row_fields

_KEY: Final = tuple(USAGE.primary_key.columns)


class SqlUsageStore:
    """Fulfils UsageStore. A batch's id and its rows are written together or not at all."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        put = postgresql.insert if database.dialect.name == "postgresql" else sqlite.insert
        self._put_new = (
            put(USAGE_BATCHES).on_conflict_do_nothing(index_elements=["batch_id"]).returning(USAGE_BATCHES.c.batch_id)
        )

    async def add(self, batch_id: str, rows: Sequence[UsageRow], at: datetime) -> bool:
        # In one order for all writers, so that no two wait for each other's rows.
        given = {_key(row): row for row in sorted(rows, key=_key)}

        def write(connection: Connection) -> bool:
            if connection.execute(self._put_new, {"batch_id": batch_id, "record_time": at}).first() is None:
                return False
            there = select(USAGE).where(tuple_(*_KEY).in_(list(given))).order_by(*_KEY).with_for_update()
            known = {_key(row): row for row in map(_row, connection.execute(there))}
            added = [_values(row) for key, row in given.items() if key not in known]
            changed = [
                {f"key_{name}": value for name, value in zip(_KEY_NAMES, key, strict=True)}
                | _values(replace(row, figures=known[key].figures + row.figures))
                for key, row in given.items()
                if key in known
            ]
            if added:
                connection.execute(insert(USAGE), added)
            if changed:
                connection.execute(_CHANGE, changed)
            return True

        return await self._database.write(write)

    async def list_rows(self, asked: Asked, query: ListQuery) -> Page[UsageRow]:
        columns = Columns({column.name: column for column in USAGE.c}, self._database.dialect)
        found = _of(asked).where(USAGE.c.collection_uid != "", columns.where(query.filter))
        rows, total = await self._database.run(listed(found, query, columns), Mode.READ)
        return query.page([_row(row) for row in rows], total, row_fields)

    async def total(self, asked: Asked) -> Figures:
        found = _of(asked).where(USAGE.c.collection_uid != "" if asked.collection_id else USAGE.c.collection_uid == "")
        return sum((_row(row).figures for row in await self._database.read(found)), Figures())

    async def prune(self, before: datetime, limit: int) -> int:
        return await self._drop(USAGE.c.start_time < before, limit)

    async def forget(self, before: datetime) -> int:
        old = delete(USAGE_BATCHES).where(USAGE_BATCHES.c.record_time < before)
        return await self._database.write(lambda connection: connection.execute(old).rowcount)

    async def erase(self, tenant: str, limit: int) -> int:
        return await self._drop(USAGE.c.tenant == tenant, limit)

    async def _drop(self, which: ColumnElement[bool], limit: int) -> int:
        some = select(*_KEY).where(which).limit(limit)
        dropped = delete(USAGE).where(tuple_(*_KEY).in_(some))
        return await self._database.write(lambda connection: connection.execute(dropped).rowcount)


_KEY_NAMES: Final = tuple(column.name for column in _KEY)
_COUNTED: Final = (*SEARCHES, "latencies")
_CHANGE: Final = (
    update(USAGE)
    .where(*(column == bindparam(f"key_{column.name}") for column in _KEY))
    .values({name: bindparam(name) for name in _COUNTED})
)


def _of(asked: Asked) -> Select[Any]:
    found = select(USAGE).where(
        USAGE.c.tenant == asked.tenant,
        USAGE.c.granularity == asked.granularity,
        USAGE.c.start_time >= asked.since,
        USAGE.c.start_time < asked.until,
    )
    return found.where(USAGE.c.collection_id == asked.collection_id) if asked.collection_id else found


def _key(row: UsageRow) -> tuple[str, str, datetime, str]:
    return row.tenant, str(row.granularity), row.start_time, row.collection_uid


def _values(row: UsageRow) -> dict[str, Any]:
    values = asdict(row)
    figures = values.pop("figures")
    latencies = {str(bucket): count for bucket, count in figures.pop("latencies").items()}
    return {**values, **figures, "granularity": str(row.granularity), "latencies": latencies}


def _row(row: Any) -> UsageRow:
    latencies = {int(bucket): count for bucket, count in row.latencies.items()}
    figures = Figures(**{name: getattr(row, name) for name in SEARCHES}, latencies=latencies)
    granularity = Granularity(row.granularity)
    return UsageRow(row.tenant, granularity, row.start_time, row.collection_uid, row.collection_id, figures)
