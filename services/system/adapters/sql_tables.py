"""The system's tables, as the migrations leave them."""

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, MetaData, Table, select

from services.mesh.quotas import COUNTED
from services.mesh.sql import OBJECT, TEXT, Instant, OpenDatabase
from services.mesh.sql.receipts import Receipts
from services.system.records import SEARCHES

METADATA = MetaData()

AUDIT_EVENTS = Table(
    "audit_events",
    METADATA,
    Column("event_id", TEXT, primary_key=True),
    Column("tenant", TEXT, nullable=False),
    Column("event_time", Instant, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("service", TEXT, nullable=False),
    Column("method", TEXT, nullable=False),
    Column("resource", TEXT, nullable=False),
    Column("outcome", TEXT, nullable=False),
    Column("code", TEXT, nullable=False),
    Column("call_id", TEXT, nullable=False),
    Column("trace_id", TEXT, nullable=False),
    Column("token_id", TEXT, nullable=False),
    Column("duration_ms", Double, nullable=False),
    Column("validate_only", Boolean, nullable=False),
)
Index("audit_events_by_time", AUDIT_EVENTS.c.tenant, AUDIT_EVENTS.c.event_time, AUDIT_EVENTS.c.event_id)
Index("audit_events_by_age", AUDIT_EVENTS.c.event_time)

REVOCATIONS = Table(
    "revocations",
    METADATA,
    Column("tenant", TEXT, primary_key=True),
    Column("revocation_id", TEXT, primary_key=True),
    # One of the two; neither denies the whole tenant.
    Column("subject", TEXT, nullable=False),
    Column("token_id", TEXT, nullable=False),
    Column("reason", TEXT, nullable=False),
    Column("creator", TEXT, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("expire_time", Instant),
    Column("etag", TEXT, nullable=False),
)
Index("revocations_by_expiry", REVOCATIONS.c.expire_time)

QUOTAS = Table(
    "quotas",
    METADATA,
    Column("tenant", TEXT, primary_key=True),
    *(Column(name, BigInteger, nullable=False) for name in COUNTED),
    Column("update_time", Instant, nullable=False),
    Column("etag", TEXT, nullable=False),
)

TENANTS = Table(
    "tenants",
    METADATA,
    Column("tenant", TEXT, primary_key=True),
    Column("state", TEXT, nullable=False),
    Column("parts", OBJECT, nullable=False),
    Column("subject", TEXT, nullable=False),
    Column("delete_time", Instant, nullable=False),
    Column("deny_time", Instant),
    Column("purge_time", Instant),
)

USAGE = Table(
    "usage",
    METADATA,
    Column("tenant", TEXT, primary_key=True),
    Column("granularity", TEXT, primary_key=True),
    Column("start_time", Instant, primary_key=True),
    # Empty in the row of all the tenant's searches.
    Column("collection_uid", TEXT, primary_key=True),
    Column("collection_id", TEXT, nullable=False),
    *(Column(name, BigInteger, nullable=False) for name in SEARCHES),
    Column("latencies", OBJECT, nullable=False),
)
Index("usage_by_age", USAGE.c.start_time)

USAGE_BATCHES = Table(
    "usage_batches",
    METADATA,
    Column("batch_id", TEXT, primary_key=True),
    Column("record_time", Instant, nullable=False),
)
Index("usage_batches_by_age", USAGE_BATCHES.c.record_time)

RECEIPTS = Receipts(METADATA, "system_receipts")


async def check(database: OpenDatabase) -> None:
    """Raises where the tables cannot be read."""
    await database.read(select(AUDIT_EVENTS.c.event_id).limit(1))
    await database.read(select(REVOCATIONS.c.revocation_id).limit(1))
    await database.read(select(QUOTAS.c.tenant).limit(1))
    await database.read(select(TENANTS.c.tenant).limit(1))
    await database.read(select(USAGE.c.tenant).limit(1))
