"""Figures of searches, and the batches they came in."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OBJECT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "usage",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("granularity", TEXT, primary_key=True),
        sa.Column("start_time", INSTANT, primary_key=True),
        sa.Column("collection_uid", TEXT, primary_key=True),
        sa.Column("collection_id", TEXT, nullable=False),
        sa.Column("queries", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("degraded", sa.BigInteger, nullable=False),
        sa.Column("zero_results", sa.BigInteger, nullable=False),
        sa.Column("cache_hits", sa.BigInteger, nullable=False),
        sa.Column("latencies", OBJECT, nullable=False),
    )
    op.create_index("usage_by_age", "usage", ["start_time"])
    op.create_table(
        "usage_batches",
        sa.Column("batch_id", TEXT, primary_key=True),
        sa.Column("record_time", INSTANT, nullable=False),
    )
    op.create_index("usage_batches_by_age", "usage_batches", ["record_time"])
