"""Brings the registry's schema to this version, whoever else is doing the same."""

from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

_MIGRATIONS: Final = Path(__file__).resolve().parent.parent / "migrations"
# Any number, as long as nothing else in the database takes it: "ragweave" in base 36, cut to 63 bits.
_LOCK: Final = 2_111_290_517_306


class UnknownSchema(SystemExit):
    """The database was written by a newer version; ends the process with one line that says so."""


def upgrade(connection: Connection) -> None:
    """Applies the steps that are missing, in the connection's transaction.

    On SQLite the transaction must hold the write lock from its beginning; on PostgreSQL an advisory lock is taken here.

    Raises:
        UnknownSchema: The database is at a step this version does not know.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = _config(connection)
    steps = ScriptDirectory.from_config(config)
    current = MigrationContext.configure(connection).get_current_revision()
    known = {step.revision for step in steps.walk_revisions()}
    if current is not None and current not in known:
        raise UnknownSchema(
            f"the registry's database is at schema {current}, this version of Ragweave knows up to "
            f"{steps.get_current_head()}: start the version that wrote it, or a newer one"
        )
    if current != steps.get_current_head():
        command.upgrade(config, "head")


def _config(connection: Connection) -> Config:
    attributes: dict[str, Any] = {"connection": connection}
    config = Config(attributes=attributes)
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
