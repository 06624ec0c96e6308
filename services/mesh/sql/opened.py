"""A service's database, opened: its schema up to date, its failures told as the domain tells them."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, Self, TypeVar

import structlog
from opentelemetry.semconv.attributes.db_attributes import DB_OPERATION_NAME, DB_SYSTEM_NAME
from sqlalchemy import Connection, Dialect, Select, select
from sqlalchemy import exc as sql_errors
from sqlalchemy.engine import URL

from services.mesh import traces
from services.mesh.breakers import Verdict, breaker_of
from services.mesh.disk import disk_full
from services.mesh.errors import DependencyUnavailable
from services.mesh.sql.databases import Database, Mode, database
from services.mesh.sql.schema import Schema

T = TypeVar("T")

# What the database says of a statement of ours; every other error is the database's own state.
_DEFECTS: Final = (sql_errors.IntegrityError, sql_errors.ProgrammingError, sql_errors.DataError)
# Connection exceptions, insufficient resources, operator intervention such as a shutdown.
_ITS_OWN_STATE: Final = ("08", "53", "57")
_ERRORS: Final = (sql_errors.DBAPIError, sql_errors.TimeoutError, OSError)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES_DISK_FULL: Final = "53100"


class OpenDatabase:
    """What stores of one service share. Every method raises DependencyUnavailable where the database does not answer,
    and DiskFull where it has no room for what it is to keep.

    Args:
        name: What an operator calls it, such as "the registry's database".
    """

    def __init__(self, database: Database, name: str) -> None:
        self._database = database
        self._name = name
        # A file is no dependency: where it cannot be written, on a full disk, it can be read all the same.
        self._breaker = breaker_of(name) if database.dialect.name == "postgresql" else None
        self._log = structlog.get_logger("mesh.sql")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | URL, schema: Schema, *, pool_size: int = 5) -> AsyncIterator[Self]:
        """The database at `url`, brought to `schema`; a SQLite file is made where there is none.

        Args:
            url: sqlite:///path or postgresql://user:password@host/database.
            pool_size: Most pieces of work, and connections, at a time.

        Raises:
            UnknownSchema: The database was written by a newer version.
            DependencyUnavailable: The database does not answer.
        """
        opened = cls(database(url, pool_size=pool_size), schema.name)
        try:
            await opened.run(schema.upgrade, Mode.WRITE)
            async with opened._breaker.looking(opened._look) if opened._breaker else nullcontext():
                yield opened
        finally:
            await opened._database.close()

    @property
    def dialect(self) -> Dialect:
        return self._database.dialect

    async def read(self, statement: Select[Any]) -> Sequence[Any]:
        """The rows of one statement."""
        return await self.run(lambda connection: connection.execute(statement).all(), Mode.ONE_READ)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, committed. Where two clash over a key, the second is run again and sees the first."""
        try:
            return await self.run(work, Mode.WRITE)
        except sql_errors.IntegrityError:
            return await self.run(work, Mode.WRITE)

    async def run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        """What `work` returns, in a transaction of that kind."""
        kind = {DB_SYSTEM_NAME: self._database.dialect.name, DB_OPERATION_NAME: mode.name}
        with traces.part(self._name, kind):
            return await self._told(lambda: self._database.run(work, mode))

    async def compact(self) -> bool:
        """See `Database.compact`."""
        return await self._told(self._database.compact)

    async def _look(self) -> None:
        await self._database.run(lambda connection: connection.execute(select(1)), Mode.ONE_READ)

    async def _told(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            with self._breaker.asking(_verdict) if self._breaker else nullcontext():
                return await work()
        except _ERRORS as error:
            if isinstance(error, _DEFECTS):
                raise
            if _is_full(error):
                self._log.error("the database's disk is full", database=self._name)
                raise disk_full(self._name) from None
            self._log.error("the database does not answer", database=self._name, exc_info=error)
            raise DependencyUnavailable(f"{self._name} does not answer", retry_after_s=1.0) from None


def _verdict(error: Exception) -> Verdict:
    """A server that has a complaint of its own answers, unless that is one of its own state (PostgreSQL's SQLSTATE).

    One whose disk is full answers, too: it can be read.
    """
    if not isinstance(error, _ERRORS) or _is_full(error):
        return Verdict.ANSWER
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return Verdict.FAILURE if state is None or state[:2] in _ITS_OWN_STATE else Verdict.ANSWER


def _is_full(error: BaseException) -> bool:
    cause = error.orig if isinstance(error, sql_errors.DBAPIError) else error
    return getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or (
        getattr(cause, "sqlstate", None) == _POSTGRES_DISK_FULL
    )
