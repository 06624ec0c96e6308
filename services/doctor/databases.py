"""Whether the databases answer, and are at the step of the schema that this version reads."""

from pathlib import Path
from typing import Final

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ragweave.findings import Finding, error, ok, warning
from services.mesh.schemas import too_new
from services.mesh.sql import Schema, sqlite_url
from services.mesh.urls import redacted

_CONNECT_S: Final = 3


def look_at(schema: Schema, url: str, file: Path, variable: str) -> list[Finding]:
    """A database at a URL, or in the file where there is none. Reads only."""
    chosen = make_url(url) if url else sqlite_url(file)
    place = str(chosen.database) if chosen.get_backend_name() == "sqlite" else redacted(url)
    if chosen.get_backend_name() == "sqlite":
        if not Path(str(chosen.database)).exists():
            return []  # made by the service when it first starts
        chosen = chosen.set(database=f"file:{chosen.database}", query={"mode": "ro", "uri": "true"})
    options = {} if chosen.get_backend_name() == "sqlite" else {"connect_timeout": _CONNECT_S}
    try:
        engine = create_engine(chosen, poolclass=NullPool, connect_args=options)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"version_table": schema.version_table})
            found = context.get_current_revision()
    except (SQLAlchemyError, OSError) as failure:
        why = "collections and documents, or quotas and the audit log, can neither be read nor changed"
        mend = f"start it, or set {variable}" if url else f"look at the rights of {place}, or restore a backup of it"
        return [error(f"{schema.name} at {place} cannot be read ({type(failure).__name__})", why, mend)]
    steps = ScriptDirectory(str(schema.steps), version_locations=[str(schema.steps)])
    head = steps.get_current_head()
    if found is not None and found not in {step.revision for step in steps.walk_revisions()}:
        why = "this version does not know how to read it, and does not start"
        return [error(too_new(schema.name, found=found, known=head), why, "start the version that wrote it")]
    if found != head:
        what = f"{schema.name} is at schema {found or 'none'}, this version reads {head}"
        why = "the service that runs is older than the software installed"
        return [warning(what, why, "`ragweave down && ragweave up`: services bring it up to date when they start")]
    return [ok(f"{schema.name} is at schema {found}")]
