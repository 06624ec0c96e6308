"""How work gets to a database: SQLite in threads of this process, PostgreSQL over the network without any."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy import Connection, Dialect, create_engine, event
from sqlalchemy.engine import URL, make_url

from services.mesh.sql.filters import add_functions

T = TypeVar("T")

BUSY_TIMEOUT_S: Final = 10.0
_BEGIN: Final = "ragweave_begin"


class Mode(StrEnum):
    """What kind of transaction a piece of work wants; the values are SQLite's."""

    ONE_READ = ""  # a single statement: none
    READ = "DEFERRED"
    # Takes SQLite's write lock at once, so that nothing read before a write can have changed by then; a deferred
    # transaction fails there instead, whatever the busy timeout.
    WRITE = "IMMEDIATE"


class Database(Protocol):
    """Runs work that is written once, for a plain SQLAlchemy connection."""

    @property
    def dialect(self) -> Dialect: ...

    async def run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        """What `work` returns, committed; nothing of it stays where it raises."""
        ...

    async def compact(self) -> bool:
        """Whether what was deleted is in none of the database's own files any more, by what this call could do."""
        ...

    async def close(self) -> None: ...


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file."""
    return URL.create("sqlite", database=str(path))


def database(url: str | URL, *, pool_size: int) -> Database:
    """The database at `sqlite:///path` or `postgresql://user:password@host/database`; nothing is opened yet."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        # Here, so that only those processes hold what it stands on.
        from services.mesh.sql.postgres import PostgresDatabase

        return PostgresDatabase(parsed, pool_size)
    return SqliteDatabase(parsed, pool_size)


class SqliteDatabase:
    """A file. Each piece of work runs whole in a thread; an async driver switches threads for every statement, which
    costs more than the statements.
    """

    def __init__(self, url: URL, pool_size: int) -> None:
        assert url.database
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        self._engine = create_engine(
            url.set(drivername="sqlite"),
            pool_size=pool_size,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None},
        )
        event.listen(self._engine, "connect", _configure_sqlite)
        event.listen(self._engine, "begin", _begin_sqlite)
        add_functions(self._engine)
        self._threads = ThreadPoolExecutor(pool_size, "sqlite")
        # One writer at a time is all SQLite has: waiting here costs no polling, and no thread.
        self._writing = asyncio.Lock()

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        if mode is Mode.WRITE:
            async with self._writing:
                return await self._in_thread(work, mode)
        return await self._in_thread(work, mode)

    async def compact(self) -> bool:
        """Moves the write-ahead log into the file, where deleted content is overwritten, and empties it."""

        def checkpoint(connection: Connection) -> bool:
            busy, _, _ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
            return not busy

        async with self._writing:
            return await self._in_thread(checkpoint, Mode.ONE_READ)

    async def close(self) -> None:
        self._threads.shutdown()
        self._engine.dispose()

    async def _in_thread(self, work: Callable[[Connection], T], mode: Mode) -> T:
        """Once begun, work is seen through: who is cancelled meanwhile is so when it has ended."""
        running = asyncio.get_running_loop().run_in_executor(self._threads, partial(self._run, work, mode))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    def _run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        with self._engine.connect() as connection:
            connection.execution_options(**{_BEGIN: mode})
            with connection.begin():
                return work(connection)


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    # Deleted content is overwritten with zeros, not left behind in free pages.
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """The driver is told not to begin by itself (isolation_level None): it would do so too late for reads."""
    mode = connection.get_execution_options()[_BEGIN]
    if mode:
        connection.exec_driver_sql(f"BEGIN {mode}")
