"""Collections, documents, the outbox, receipts."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
OBJECT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "collections",
        sa.Column("uid", TEXT, primary_key=True),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("collection_id", TEXT, nullable=False),
        sa.Column("description", TEXT, nullable=False),
        sa.Column("labels", OBJECT, nullable=False),
        sa.Column("embedding_model", TEXT, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("language", TEXT, nullable=False),
        sa.Column("chunking", OBJECT, nullable=False),
        sa.Column("source", OBJECT),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("visibility", TEXT, nullable=False),
        sa.Column("default_search", OBJECT),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("document_count", sa.Integer, nullable=False),
        sa.Column("chunk_count", sa.Integer, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("delete_time", INSTANT),
        sa.Column("expire_time", INSTANT),
        sa.Column("etag", TEXT, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False, unique=True),
    )
    alive = sa.text("delete_time IS NULL")
    op.create_index(
        "collections_by_id",
        "collections",
        ["tenant", "collection_id"],
        unique=True,
        sqlite_where=alive,
        postgresql_where=alive,
    )
    op.create_table(
        "documents",
        sa.Column("uid", TEXT, primary_key=True),
        sa.Column("collection_uid", TEXT, sa.ForeignKey("collections.uid", ondelete="CASCADE"), nullable=False),
        sa.Column("document_id", TEXT, nullable=False),
        sa.Column("state", TEXT, nullable=False),
        sa.Column("title", TEXT, nullable=False),
        sa.Column("source_uri", TEXT, nullable=False),
        sa.Column("mime_type", TEXT, nullable=False),
        sa.Column("metadata", OBJECT, nullable=False),
        sa.Column("principals", OBJECT, nullable=False),
        sa.Column("content_hash", TEXT, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("chunk_count", sa.Integer, nullable=False),
        sa.Column("token_count", sa.Integer, nullable=False),
        sa.Column("error", sa.LargeBinary, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("revision_key", TEXT, nullable=False),
        sa.Column("fields_hash", TEXT, nullable=False),
        sa.Column("source_key", TEXT, nullable=False),
        sa.Column("create_time", INSTANT, nullable=False),
        sa.Column("update_time", INSTANT, nullable=False),
        sa.Column("delete_time", INSTANT),
        sa.Column("etag", TEXT, nullable=False),
        sa.Column("unsettled", sa.Integer, nullable=False),
        sa.Column("unsettled_time", INSTANT),
        sa.Column("patched", sa.Boolean, nullable=False),
    )
    op.create_index("documents_by_id", "documents", ["collection_uid", "document_id"], unique=True)
    op.create_index("documents_by_source", "documents", ["collection_uid", "source_key", "document_id"])
    unfinished = sa.text("delete_time IS NOT NULL OR unsettled_time IS NOT NULL")
    op.create_index(
        "documents_unfinished",
        "documents",
        ["collection_uid"],
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_table(
        "outbox",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("kind", TEXT, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("event_time", INSTANT, nullable=False),
    )
    sequences = op.create_table(
        "sequences",
        sa.Column("name", TEXT, primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(sequences, [{"name": "outbox", "value": 0}])
    op.create_table(
        "receipts",
        sa.Column("tenant", TEXT, primary_key=True),
        sa.Column("method", TEXT, primary_key=True),
        sa.Column("request_id", TEXT, primary_key=True),
        sa.Column("digest", TEXT, nullable=False),
        sa.Column("result", sa.LargeBinary, nullable=False),
        sa.Column("expire_time", INSTANT, nullable=False),
    )
    op.create_index("ix_receipts_expire_time", "receipts", ["expire_time"])
