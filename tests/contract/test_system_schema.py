"""The system's schema is brought up to date on start."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError

from services.mesh.errors import DependencyUnavailable
from services.mesh.sql import Mode, OpenDatabase, sqlite_url
from services.system.adapters.sql_tables import METADATA, check
from services.system.migrations import SYSTEM
from tests.system_records import system_database


@pytest.fixture(params=["sqlite", "postgresql"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenDatabase]:
    async with system_database(request.param, request, tmp_path) as made:
        yield made


async def test_the_steps_lead_to_the_tables_the_stores_use(opened: OpenDatabase) -> None:
    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "version_table": SYSTEM.version_table}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), METADATA))

    assert await opened.run(differences, Mode.READ) == []


async def test_a_lost_table_makes_the_check_fail(opened: OpenDatabase) -> None:
    await check(opened)
    await opened.run(lambda connection: connection.execute(text("DROP TABLE revocations")), Mode.WRITE)
    with pytest.raises((DependencyUnavailable, ProgrammingError)):
        await check(opened)


async def test_a_file_that_is_no_database_is_named_unavailable_without_its_text(tmp_path: Path) -> None:
    path = tmp_path / "system.db"
    path.write_bytes(b"not a database at all, but long enough to look like one" * 40)
    with pytest.raises(DependencyUnavailable, match=r"^the system's database does not answer$"):
        async with OpenDatabase.open(sqlite_url(path), SYSTEM):
            pass
