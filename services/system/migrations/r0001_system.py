"""Audit events, revocations, receipts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "audit_events",
        sa.Column("event_id", TEXT, primary_key=True),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("service", TEXT, nullable=False),
        sa.Column("method", TEXT, nullable=False),
        sa.Column("resource", TEXT, nullable=False),
        sa.Column("outcome", TEXT, nullable=False),
        sa.Column("code", TEXT, nullable=False),
        sa.Column("call_id", TEXT, nullable=False),
        sa.Column("trace_id", TEXT, nullable=False),
        sa.Column("token_id", TEXT, nullable=False),
        sa.Column("duration_ms", sa.Double, nullable=False),
        sa.Column("validate_only", sa.Boolean, nullable=False),
    )
    op.create_index("audit_events_by_time", "audit_events", ["tenant", "event_time", "event_id"])
    op.create_index("audit_events_by_age", "audit_events", ["event_time"])
    op.create_table(
        "revocations",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("revocation_id", TEXT, primary_key=True),
        sa.Column("subject", TEXT, nullable=False),
        sa.Column("token_id", TEXT, nullable=False),
        sa.Column("reason", TEXT, nullable=False),
        sa.Column("creator", TEXT, nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("expire_time", INSTANT),
        sa.Column("etag", TEXT, nullable=False),
    )
    op.create_index("revocations_by_expiry", "revocations", ["expire_time"])
    op.create_table(
        "system_receipts",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("method", TEXT, primary_key=True),
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.Column("expire_time", INSTANT, nullable=False),
    )
    op.create_index("ix_system_receipts_expire_time", "system_receipts", ["expire_time"])
