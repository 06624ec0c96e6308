"""Brings a database's schema to this version, whoever else is doing the same."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from services.mesh.schemas import UnknownSchema

_RUNNER: Final = Path(__file__).resolve().parent / "alembic"
# Any number, as long as nothing else in the database takes it: "ragweave" in base 36, cut to 63 bits.
_LOCK: Final = 2_111_290_517_306


@dataclass(frozen=True, slots=True)
class Schema:
    """The schema of one service's tables, as the steps that lead to it.

    Steps add; what the version before still reads goes away a version later at the earliest. So replicas of both may
    run while one takes the other's place.

    Attributes:
        name: What an operator calls the database, such as "the registry's database".
        steps: The folder with one Alembic step a file.
        version_table: Where the database keeps the step it is at; each schema its own, for two may share a database.
    """

    name: str
    steps: Path
    version_table: str

    def upgrade(self, connection: Connection) -> None:
        """Applies the steps that are missing, in the connection's transaction: all of them, or none.

        Whoever comes meanwhile waits, then finds nothing to do. On SQLite the transaction must hold the write lock from
        its beginning (`Mode.WRITE`); on PostgreSQL an advisory lock is taken here.

        Raises:
            UnknownSchema: The database is at a step this version does not know.
        """
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        config = self._config(connection)
        steps = ScriptDirectory.from_config(config)
        head = steps.get_current_head()
        options = {"version_table": self.version_table}
        current = MigrationContext.configure(connection, opts=options).get_current_revision()
        if current is not None and current not in {step.revision for step in steps.walk_revisions()}:
            raise UnknownSchema(self.name, found=current, known=head)
        if current != head:
            command.upgrade(config, "head")

    def _config(self, connection: Connection) -> Config:
        config = Config(attributes={"connection": connection, "version_table": self.version_table})
        config.set_main_option("script_location", _escaped(_RUNNER))
        config.set_main_option("version_locations", _escaped(self.steps))
        config.set_main_option("path_separator", "newline")
        return config


def _escaped(path: Path) -> str:
    """As Alembic's configuration has it, where % begins a reference."""
    return str(path).replace("%", "%%")
