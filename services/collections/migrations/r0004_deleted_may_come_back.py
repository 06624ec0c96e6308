"""What is deleted stays for a while and may come back; documents are found by their content."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    for table in ("collections", "documents"):
        op.add_column(table, sa.Column("purge_time", INSTANT))
        op.add_column(table, sa.Column("purging", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("collections", sa.Column("unsettled", sa.Boolean, nullable=False, server_default=sa.false()))
    op.add_column("documents", sa.Column("generation", sa.Integer, nullable=False, server_default="0"))
    # What the version before deleted was on its way out, for good.
    op.execute("UPDATE collections SET purging = true, purge_time = delete_time WHERE delete_time IS NOT NULL")
    op.execute("UPDATE documents SET purging = true, purge_time = delete_time WHERE delete_time IS NOT NULL")
    op.create_index("documents_by_content", "documents", ["content_hash"])
    waiting = sa.text("purge_time IS NOT NULL")
    op.create_index(
        "documents_by_purge_time", "documents", ["purge_time"], sqlite_where=waiting, postgresql_where=waiting
    )
