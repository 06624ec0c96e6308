"""The registry's schema is brought up to date on start, by however many start."""

import asyncio
import multiprocessing
import multiprocessing.connection
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text

from services.collections.adapters.sql import SqlStore
from services.collections.adapters.sql_tables import METADATA
from services.mesh.errors import DependencyUnavailable
from services.mesh.schemas import UnknownSchema
from services.mesh.sql import Mode, sqlite_url
from tests.collections_records import collection
from tests.contract.test_registry_store import database


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'registry.db'}"
    else:
        async with database(request.getfixturevalue("postgres_url")) as made:
            yield made


async def test_the_steps_lead_to_the_tables_the_store_uses(url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, METADATA))

    async with SqlStore.open(url) as store:
        assert await store._database.run(differences, Mode.READ) == []


async def test_a_database_of_a_newer_version_is_refused_by_name(url: str) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9999'")
    async with SqlStore.open(url) as store:
        await store._database.run(lambda connection: connection.execute(newer), Mode.WRITE)
    with pytest.raises(UnknownSchema, match=r"schema 9999.*up to \d{4}"):
        async with SqlStore.open(url):
            pass


def _start(url: str, number: int) -> None:
    async def start() -> None:
        async with SqlStore.open(url) as store:
            made = collection(f"c{number}")
            await store.write_collection("acme", f"c{number}", lambda found: made)

    asyncio.run(start())


async def test_processes_that_start_at_once_share_one_schema(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_start, args=(url, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    async with SqlStore.open(url) as store:
        assert await store.last_sequence() == 3


async def test_what_was_written_is_there_after_a_restart(url: str) -> None:
    async with SqlStore.open(url) as store:
        written = await store.write_collection("acme", "docs", lambda found: collection())
    async with SqlStore.open(url) as store:
        assert await store.find_collection("acme", "docs") == written


def _write_until_killed(url: str, written: "multiprocessing.connection.Connection") -> None:
    async def write() -> None:
        async with SqlStore.open(url) as store:
            for number in count():
                made = collection(f"c{number}")
                await store.write_collection("acme", made.collection_id, lambda found, made=made: made)
                written.send(number)

    asyncio.run(write())


async def test_what_was_acknowledged_survives_a_kill(url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    read, write = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_write_until_killed, args=(url, write))
    process.start()
    write.close()
    acknowledged = -1
    while acknowledged < 20:
        acknowledged = await asyncio.to_thread(read.recv)
    process.kill()
    with suppress(EOFError):
        while True:
            acknowledged = read.recv()
    process.join()
    read.close()
    async with SqlStore.open(url) as store:
        last = await store.last_sequence()
        assert last in (acknowledged + 1, acknowledged + 2), "one more may have been written and not yet said so"
        assert [each.collection.collection_id for each in await store.changes(0, 9_999)] == [
            f"c{n}" for n in range(last)
        ]


async def test_sqlite_is_durable_and_keeps_its_references(tmp_path: Path) -> None:
    def pragmas(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return {name: connection.scalar(text(f"PRAGMA {name}")) for name in names}

    async with SqlStore.open(sqlite_url(tmp_path / "registry.db")) as store:
        found = await store._database.run(pragmas, Mode.ONE_READ)
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


async def test_a_file_that_is_no_database_is_named_unavailable_without_its_text(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    path.write_bytes(b"not a database at all, but long enough to look like one" * 40)
    with pytest.raises(DependencyUnavailable, match=r"^the registry's database does not answer$"):
        async with SqlStore.open(sqlite_url(path)):
            pass


async def test_a_lost_table_makes_the_check_fail(tmp_path: Path) -> None:
    async with SqlStore.open(sqlite_url(tmp_path / "registry.db")) as store:
        await store.check()
        with sqlite3.connect(tmp_path / "registry.db") as other:
            other.execute("DROP TABLE sequences")
        other.close()
        with pytest.raises(DependencyUnavailable):
            await store.check()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(DependencyUnavailable):
        async with SqlStore.open("postgresql://nobody@127.0.0.1:1/none"):
            pass
