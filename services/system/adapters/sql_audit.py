"""The audit log in SQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Text, delete, literal, select
from sqlalchemy.dialects import postgresql, sqlite

from services.mesh.audit import AuditEvent
from services.mesh.lists import ListQuery, Page
from services.mesh.sql import Columns, Mode, OpenDatabase, listed
from services.system.adapters.sql_tables import AUDIT_EVENTS
from services.system.audit import event_fields

# What only the end of an event knows.
_OF_THE_END: Final = ("resource", "outcome", "code", "duration_ms")


class SqlAuditLog:
    """Fulfils AuditLog."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        insert = postgresql.insert if database.dialect.name == "postgresql" else sqlite.insert
        begun = insert(AUDIT_EVENTS)
        self._put_begun = begun.on_conflict_do_nothing(index_elements=["event_id"])
        self._put_ended = begun.on_conflict_do_update(
            index_elements=["event_id"], set_={name: begun.excluded[name] for name in _OF_THE_END}
        )

    async def record(self, events: Sequence[AuditEvent]) -> None:
        begun = [_values(each) for each in events if not each.code]
        ended = [_values(each) for each in events if each.code]

        def write(connection: Connection) -> None:
            if begun:
                connection.execute(self._put_begun, begun)
            if ended:
                connection.execute(self._put_ended, ended)

        await self._database.write(write)

    async def list_events(self, tenant: str, query: ListQuery) -> Page[AuditEvent]:
        columns = _columns(self._database)
        found = select(AUDIT_EVENTS).where(AUDIT_EVENTS.c.tenant == tenant, columns.where(query.filter))
        rows, total = await self._database.run(listed(found, query, columns), Mode.READ)
        return query.page([_event(row) for row in rows], total, event_fields)

    async def prune(self, before: datetime, limit: int) -> int:
        return await self._drop(AUDIT_EVENTS.c.event_time < before, limit)

    async def erase(self, tenant: str, limit: int) -> int:
        return await self._drop(AUDIT_EVENTS.c.tenant == tenant, limit)

    async def _drop(self, which: ColumnElement[bool], limit: int) -> int:
        oldest = select(AUDIT_EVENTS.c.event_id).where(which).limit(limit)
        dropped = delete(AUDIT_EVENTS).where(AUDIT_EVENTS.c.event_id.in_(oldest))
        return await self._database.write(lambda connection: connection.execute(dropped).rowcount)


def _columns(database: OpenDatabase) -> Columns:
    """The columns by field; `name` is what callers see."""
    fields: dict[str, ColumnElement[Any]] = {column.name: column for column in AUDIT_EVENTS.c}
    return Columns({**fields, "name": literal("auditEvents/", Text) + AUDIT_EVENTS.c.event_id}, database.dialect)


def _values(event: AuditEvent) -> dict[str, Any]:
    return {column.name: getattr(event, column.name) for column in AUDIT_EVENTS.c}


def _event(row: Any) -> AuditEvent:
    return AuditEvent(**{name: value for name, value in row._mapping.items() if name != "outcome"})
