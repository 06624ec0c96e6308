"""A SQLite database, held for an instant and copied as it was then, while others go on writing."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, Self

from ragweave.backups.errors import BackupDamaged, BackupError

# Others wait meanwhile; theirs give up after ten seconds.
_WAIT_S: Final = 5.0
_PAGES_AT_A_TIME: Final = 4096


class HeldDatabase:
    """One database. Its methods block; they are called one after the other, from any thread.

    `hold` takes its write lock, `pin` begins to see it as it is, `release` lets the writers go on, `copy` writes what
    was seen (the log keeps it meanwhile).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
        self._reader = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        opened = cls(path)
        try:
            yield opened
        finally:
            opened.close()

    def hold(self) -> None:
        """Has all writers wait. Raises BackupError where one does not end."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise BackupError(f"{self._path}: a writer does not end ({error})") from None

    def pin(self) -> None:
        """From here on `copy` and `rows` are of this instant."""
        self._reader.execute("BEGIN")
        self._reader.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def release(self) -> None:
        """Lets the writers go on."""
        if self._writer.in_transaction:
            self._writer.execute("ROLLBACK")

    def rows(self, statement: str) -> list[Any]:
        """What a query finds in what is pinned."""
        return self._reader.execute(statement).fetchall()

    def copy(self, target: Path) -> None:
        """Writes what is pinned to a new file, whole."""
        copied = sqlite3.connect(target)
        try:
            # On a connection with a transaction open, a backup is of what that sees.
            self._reader.backup(copied, pages=_PAGES_AT_A_TIME)
            copied.execute("PRAGMA journal_mode = DELETE")  # the file alone is all of it
        finally:
            copied.close()

    def close(self) -> None:
        self.release()
        self._reader.close()
        self._writer.close()


def check_database(path: Path) -> None:
    """Raises BackupDamaged where SQLite finds something wrong with a file that nobody writes."""
    found = _asked(f"{path.absolute().as_uri()}?immutable=1", "PRAGMA integrity_check")
    if found != [("ok",)]:
        raise BackupDamaged(f"{path}: SQLite finds it damaged ({found[0][0] if found else 'it cannot be read'})")


def rows_of(path: Path, statement: str) -> list[Any] | None:
    """What a query finds in a database that may have a log beside it; None where it cannot be read."""
    return _asked(f"{path.absolute().as_uri()}?mode=rw", statement)


def _asked(uri: str, statement: str) -> list[Any] | None:
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(statement).fetchall()
    except sqlite3.Error:
        return None
