"""PostgreSQL over the network, asynchronously. SQLAlchemy's part for that takes 6 MiB, which those on SQLite spare."""

from collections.abc import Callable
from typing import Final, TypeVar

from sqlalchemy import Connection, Dialect
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import create_async_engine

from services.mesh.sql.databases import BUSY_TIMEOUT_S, Mode

T = TypeVar("T")

# A server that vanished without a word is noticed after 15 s of silence, or 10 s after what was sent to it last.
_VANISHED: Final = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 10_000,
}


class PostgresDatabase:
    """A server, spoken to asynchronously; the work's statements wait without holding a thread."""

    def __init__(self, url: URL, pool_size: int) -> None:
        self._engine = create_async_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            pool_pre_ping=True,
            pool_timeout=BUSY_TIMEOUT_S,
            connect_args={"connect_timeout": int(BUSY_TIMEOUT_S), "options": "-c timezone=UTC", **_VANISHED},
        )
        self._modes = {
            Mode.ONE_READ: self._engine.execution_options(isolation_level="AUTOCOMMIT"),
            # Lists read a page and their total: both of one moment.
            Mode.READ: self._engine.execution_options(isolation_level="REPEATABLE READ"),
            # Each statement sees what was committed before it: what a row lock waited for.
            Mode.WRITE: self._engine.execution_options(isolation_level="READ COMMITTED"),
        }

    @property
    def dialect(self) -> Dialect:
        return self._engine.dialect

    async def run(self, work: Callable[[Connection], T], mode: Mode) -> T:
        async with self._modes[mode].begin() as connection:
            return await connection.run_sync(work)

    async def compact(self) -> bool:
        """The server's own vacuum and archives see to that, at their time."""
        return True

    async def close(self) -> None:
        await self._engine.dispose()
