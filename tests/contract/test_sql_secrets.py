"""What is deleted from a SQLite database is in none of its files."""

from pathlib import Path

from sqlalchemy import Connection, text

from services.mesh.sql import Mode, database, sqlite_url


async def test_deleted_content_is_in_no_file_once_the_database_is_compacted(tmp_path: Path) -> None:
    opened = database(sqlite_url(tmp_path / "test.db"), pool_size=2)

    def fill(connection: Connection) -> None:
        connection.execute(text("CREATE TABLE kept (id INTEGER PRIMARY KEY, content TEXT)"))
        connection.execute(text("CREATE INDEX kept_by_content ON kept (content)"))
        rows = [{"content": f"{'canary' if number % 2 else 'other'}-{number}-" + "x" * 3000} for number in range(200)]
        connection.execute(text("INSERT INTO kept (content) VALUES (:content)"), rows)

    def change(connection: Connection) -> None:
        connection.execute(text("UPDATE kept SET content = 'harmless' WHERE content LIKE 'canary-1-%'"))
        connection.execute(text("DELETE FROM kept WHERE content LIKE 'canary%'"))

    try:
        await opened.run(fill, Mode.WRITE)
        assert await opened.compact()
        assert b"canary" in contents(tmp_path)
        await opened.run(change, Mode.WRITE)
        assert await opened.compact()
        assert b"canary" not in contents(tmp_path)
        assert b"other-0-" in contents(tmp_path)
    finally:
        await opened.close()


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())
