"""A schema is brought forward on start: data kept, one at a time, never back."""

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Sequence
from multiprocessing import synchronize
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, inspect, text

from services.collections.migrations import REGISTRY
from services.mesh.schemas import UnknownSchema
from services.mesh.sql import Database, Mode, Schema, database, sqlite_url
from services.system.migrations import SYSTEM
from tests.contract.test_registry_store import database as postgres_database

STEPS = {
    "0001": "op.create_table('shelves', sa.Column('name', sa.Text, primary_key=True))",
    "0002": "op.add_column('shelves', sa.Column('books', sa.Integer, nullable=False, server_default='7'))",
    # Not to be repeated: where two run it, the number tells.
    "0003": "op.execute('UPDATE shelves SET books = books + 1')",
}


@pytest.fixture(params=["sqlite", "postgresql"])
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield str(sqlite_url(tmp_path / "shelves.db"))
    else:
        async with postgres_database(request.getfixturevalue("postgres_url")) as made:
            yield made


def schema(folder: Path, *, upto: str, name: str = "the library") -> Schema:
    """The schema as a version that knows the steps up to one has it."""
    steps = folder / f"{name} 100%:{upto}"  # an awkward name, which must not matter
    steps.mkdir(exist_ok=True)
    before = None
    for revision, step in STEPS.items():
        if revision <= upto:
            source = f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision = {revision!r}\n"
            source += f"down_revision = {before!r}\n\n\ndef upgrade() -> None:\n    {step}\n"
            (steps / f"r{revision}.py").write_text(source)
        before = revision
    return Schema(name, steps, version_table=f"{name.replace(' ', '_')}_version")


async def run(url: str, work: Any) -> Any:
    opened: Database = database(url, pool_size=1)
    try:
        return await opened.run(work, Mode.WRITE)
    finally:
        await opened.close()


def _shelve(connection: Connection) -> None:
    connection.execute(text("INSERT INTO shelves (name) VALUES ('poetry')"))


def _shelves(connection: Connection) -> Sequence[Any]:
    return [tuple(row) for row in connection.execute(text("SELECT * FROM shelves"))]


async def test_an_older_database_is_brought_forward_with_its_data(url: str, tmp_path: Path) -> None:
    await run(url, schema(tmp_path, upto="0001").upgrade)
    await run(url, _shelve)
    for _ in range(2):
        await run(url, schema(tmp_path, upto="0003").upgrade)
    assert await run(url, _shelves) == [("poetry", 8)]


async def test_a_newer_database_is_refused_in_one_sentence_and_left_alone(url: str, tmp_path: Path) -> None:
    await run(url, schema(tmp_path, upto="0002").upgrade)
    await run(url, _shelve)
    with pytest.raises(UnknownSchema) as refused:
        await run(url, schema(tmp_path, upto="0001").upgrade)
    assert str(refused.value) == (
        "the library is at schema 0002, this version of Ragweave knows up to 0001: "
        "start the version that wrote it, or a newer one"
    )
    assert await run(url, _shelves) == [("poetry", 7)]


async def test_a_step_that_fails_leaves_the_database_as_it_was(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(url, schema(tmp_path, upto="0001").upgrade)
    await run(url, _shelve)
    monkeypatch.setitem(STEPS, "0003", "raise RuntimeError('out of shelves')")
    with pytest.raises(RuntimeError, match="out of shelves"):
        await run(url, schema(tmp_path, upto="0003").upgrade)
    assert await run(url, _shelves) == [("poetry",)]
    await run(url, schema(tmp_path, upto="0001").upgrade)


async def test_two_schemas_may_share_a_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await run(url, schema(tmp_path, upto="0003").upgrade)
    monkeypatch.setitem(STEPS, "0001", "op.create_table('ledgers', sa.Column('name', sa.Text, primary_key=True))")
    await run(url, schema(tmp_path, upto="0001", name="the ledger").upgrade)
    assert await run(url, lambda connection: connection.execute(text("SELECT * FROM ledgers")).all()) == []


async def test_all_schemas_of_the_mesh_fit_into_one_database(url: str) -> None:
    def tables(connection: Connection) -> set[str]:
        return set(inspect(connection).get_table_names())

    both = [REGISTRY, SYSTEM]
    for schema_ in (*both, *both):
        await run(url, schema_.upgrade)
    made = await run(url, tables)
    assert {"collections", "receipts", "audit_events", "system_receipts"} <= made
    assert {each.version_table for each in both} <= made


def _upgrade(url: str, made: Schema, together: "synchronize.Barrier") -> None:
    together.wait()
    asyncio.run(run(url, made.upgrade))


async def test_of_several_that_start_at_once_one_brings_it_forward(url: str, tmp_path: Path) -> None:
    await run(url, schema(tmp_path, upto="0001").upgrade)
    await run(url, _shelve)
    newest = schema(tmp_path, upto="0003")
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(4)
    processes = [spawn.Process(target=_upgrade, args=(url, newest, together)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        await asyncio.to_thread(process.join)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert await run(url, _shelves) == [("poetry", 8)]
