"""Tenants that are deleted or being so."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OBJECT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("parts", OBJECT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("delete_time", INSTANT, nullable=False),
        sa.Column("deny_time", INSTANT),
        sa.Column("purge_time", INSTANT),
    )
