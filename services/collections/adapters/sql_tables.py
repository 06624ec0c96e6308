"""The registry's tables, as the migrations leave them."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    false,
)

from services.mesh.sql import OBJECT, TEXT, Instant, Receipts

METADATA = MetaData()

COLLECTIONS = Table(
    "collections",
    METADATA,
    Column("uid", TEXT, primary_key=True),
    Column("tenant", TEXT, nullable=False),
    Column("collection_id", TEXT, nullable=False),
    Column("description", TEXT, nullable=False),
    Column("labels", OBJECT, nullable=False),
    Column("embedding_model", TEXT, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("language", TEXT, nullable=False),
    Column("chunking", OBJECT, nullable=False),
    Column("source", OBJECT),
    Column("disabled", Boolean, nullable=False),
    Column("visibility", TEXT, nullable=False),
    Column("default_search", OBJECT),
    Column("revision", Integer, nullable=False),
    Column("document_count", Integer, nullable=False),
    Column("chunk_count", Integer, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("update_time", Instant, nullable=False),
    Column("delete_time", Instant),
    Column("expire_time", Instant),
    Column("etag", TEXT, nullable=False),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("purge_time", Instant),
    Column("purging", Boolean, nullable=False, server_default=false()),
    Column("unsettled", Boolean, nullable=False, server_default=false()),
)
# A deleted collection's row stays as long as it can come back; its id is free meanwhile.
Index(
    "collections_by_id",
    COLLECTIONS.c.tenant,
    COLLECTIONS.c.collection_id,
    unique=True,
    sqlite_where=COLLECTIONS.c.delete_time.is_(None),
    postgresql_where=COLLECTIONS.c.delete_time.is_(None),
)

DOCUMENTS = Table(
    "documents",
    METADATA,
    Column("uid", TEXT, primary_key=True),
    Column("collection_uid", TEXT, ForeignKey(COLLECTIONS.c.uid, ondelete="CASCADE"), nullable=False),
    Column("document_id", TEXT, nullable=False),
    Column("state", TEXT, nullable=False),
    Column("title", TEXT, nullable=False),
    Column("source_uri", TEXT, nullable=False),
    Column("mime_type", TEXT, nullable=False),
    Column("metadata", OBJECT, nullable=False),
    Column("principals", OBJECT, nullable=False),
    Column("content_hash", TEXT, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("chunk_count", Integer, nullable=False),
    Column("token_count", Integer, nullable=False),
    Column("error", LargeBinary, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("revision_key", TEXT, nullable=False),
    Column("fields_hash", TEXT, nullable=False),
    Column("source_key", TEXT, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("update_time", Instant, nullable=False),
    Column("delete_time", Instant),
    Column("etag", TEXT, nullable=False),
    Column("unsettled", Integer, nullable=False),
    Column("unsettled_time", Instant),
    Column("patched", Boolean, nullable=False),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("origin", TEXT, nullable=False, server_default=""),
    Column("purge_time", Instant),
    Column("purging", Boolean, nullable=False, server_default=false()),
    Column("generation", Integer, nullable=False, server_default="0"),
)
Index("documents_by_id", DOCUMENTS.c.collection_uid, DOCUMENTS.c.document_id, unique=True)
Index("documents_by_source", DOCUMENTS.c.collection_uid, DOCUMENTS.c.source_key, DOCUMENTS.c.document_id)
Index(
    "documents_pending",
    DOCUMENTS.c.uid,
    sqlite_where=DOCUMENTS.c.state == "PENDING",
    postgresql_where=DOCUMENTS.c.state == "PENDING",
)
Index("documents_by_content", DOCUMENTS.c.content_hash)
Index(
    "documents_by_purge_time",
    DOCUMENTS.c.purge_time,
    sqlite_where=DOCUMENTS.c.purge_time.is_not(None),
    postgresql_where=DOCUMENTS.c.purge_time.is_not(None),
)
Index(
    "documents_unfinished",
    DOCUMENTS.c.collection_uid,
    sqlite_where=DOCUMENTS.c.delete_time.is_not(None) | DOCUMENTS.c.unsettled_time.is_not(None),
    postgresql_where=DOCUMENTS.c.delete_time.is_not(None) | DOCUMENTS.c.unsettled_time.is_not(None),
)

# Every change of a collection with the collection as it then was, for followers and events.
OUTBOX = Table(
    "outbox",
    METADATA,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", TEXT, nullable=False),
    Column("kind", TEXT, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("event_time", Instant, nullable=False),
)

# One row: the last sequence given. Counting it up locks it, so that sequences are committed in their order.
SEQUENCES = Table(
    "sequences",
    METADATA,
    Column("name", TEXT, primary_key=True),
    Column("value", BigInteger, nullable=False),
)

RECEIPTS = Receipts(METADATA)
