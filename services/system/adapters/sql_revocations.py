"""Revocations in SQL."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, Connection, Select, Text, delete, func, insert, literal, or_, select

from services.mesh.errors import RevocationNotFound
from services.mesh.lists import ListQuery, Page
from services.mesh.receipts import Receipt
from services.mesh.sql import Columns, Mode, OpenDatabase, listed
from services.system.adapters.sql_tables import RECEIPTS, REVOCATIONS
from services.system.records import Revocation
from services.system.revocations import revocation_fields

_CODEC: Final = TypeAdapter(Revocation)
_OF_SOMEBODY: Final = or_(REVOCATIONS.c.subject != "", REVOCATIONS.c.token_id != "")


class SqlRevocationStore:
    """Fulfils RevocationStore."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database

    async def add(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        def write(connection: Connection) -> Revocation:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return _CODEC.validate_json(answered)
            connection.execute(delete(REVOCATIONS).where(*_named(revocation.tenant, revocation.revocation_id)))
            connection.execute(insert(REVOCATIONS), asdict(revocation))
            RECEIPTS.record(connection, receipt, _CODEC.dump_json(revocation))
            return revocation

        return await self._database.write(write)

    async def find(self, tenant: str, revocation_id: str, at: datetime) -> Revocation | None:
        found = _holding(at).where(*_named(tenant, revocation_id))
        return next((_revocation(row) for row in await self._database.read(found)), None)

    async def list_revocations(self, tenant: str, query: ListQuery, at: datetime) -> Page[Revocation]:
        fields: dict[str, ColumnElement[Any]] = {column.name: column for column in REVOCATIONS.c}
        name = literal("revocations/", Text) + REVOCATIONS.c.revocation_id
        columns = Columns({**fields, "name": name}, self._database.dialect)
        found = _holding(at).where(REVOCATIONS.c.tenant == tenant, _OF_SOMEBODY, columns.where(query.filter))
        rows, total = await self._database.run(listed(found, query, columns), Mode.READ)
        return query.page([_revocation(row) for row in rows], total, revocation_fields)

    async def count(self, tenant: str) -> int:
        counted = select(func.count()).select_from(REVOCATIONS).where(REVOCATIONS.c.tenant == tenant)
        return int((await self._database.read(counted))[0][0])

    async def remove(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        named = _named(revocation.tenant, revocation.revocation_id)

        def write(connection: Connection) -> Revocation:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return _CODEC.validate_json(answered)
            gone = connection.execute(delete(REVOCATIONS).where(*named, REVOCATIONS.c.etag == revocation.etag))
            if not gone.rowcount:
                raise RevocationNotFound(f"no revocation {revocation.name!r}", revocation=revocation.name)
            RECEIPTS.record(connection, receipt, _CODEC.dump_json(revocation))
            return revocation

        return await self._database.write(write)

    async def recall(self, receipt: Receipt) -> Revocation | None:
        answered = await self._database.run(lambda connection: RECEIPTS.recall(connection, receipt), Mode.ONE_READ)
        return None if answered is None else _CODEC.validate_json(answered)

    async def holding(self, at: datetime) -> Sequence[Revocation]:
        return [_revocation(row) for row in await self._database.read(_holding(at))]

    async def prune(self, at: datetime) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(REVOCATIONS).where(REVOCATIONS.c.expire_time <= at))
            RECEIPTS.prune(connection, at)  # those of every method of the service: they share a table

        await self._database.write(work)

    async def erase(self, tenant: str) -> int:
        gone = delete(REVOCATIONS).where(REVOCATIONS.c.tenant == tenant, _OF_SOMEBODY)
        return await self._database.write(lambda connection: connection.execute(gone).rowcount)


def _holding(at: datetime) -> Select[Any]:
    return select(REVOCATIONS).where(or_(REVOCATIONS.c.expire_time.is_(None), REVOCATIONS.c.expire_time > at))


def _named(tenant: str, revocation_id: str) -> tuple[ColumnElement[bool], ...]:
    return REVOCATIONS.c.tenant == tenant, REVOCATIONS.c.revocation_id == revocation_id


def _revocation(row: Any) -> Revocation:
    return Revocation(**row._mapping)
