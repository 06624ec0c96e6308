"""Receipts in a table of their owner's database, written in the transaction of what they are about."""

from datetime import UTC, datetime

from sqlalchemy import Column, ColumnElement, Connection, LargeBinary, MetaData, Table, delete, insert, select, tuple_

from services.mesh.receipts import REQUEST_TTL, Receipt
from services.mesh.sql.columns import TEXT, Instant


class Receipts:
    """Answers to requests that may be repeated, until they expire. Every method is part of the caller's transaction.

    Two transactions with one receipt cannot both commit: the later fails with IntegrityError, and finds the answer
    when it is run again.

    Args:
        name: Of the table, which is `table`; the owner's migrations make it.
    """

    def __init__(self, metadata: MetaData, name: str = "receipts") -> None:
        self.table = Table(
            name,
            metadata,
            Column("tenant", TEXT, primary_key=True),
            Column("method", TEXT, primary_key=True),
            Column("request_id", TEXT, primary_key=True),
            Column("digest", TEXT, nullable=False),
            Column("result", LargeBinary, nullable=False),
            Column("expire_time", Instant, nullable=False, index=True),
        )

    def recall(self, connection: Connection, receipt: Receipt | None) -> bytes | None:
        """The recorded answer. Raises RequestIdReused where the id was recorded with another body."""
        if receipt is None:
            return None
        row = connection.execute(select(self.table).where(*self._of(receipt))).one_or_none()
        if row is None or row.expire_time <= _now():
            return None
        receipt.check(row.digest)
        answer: bytes = row.result
        return answer

    def record(self, connection: Connection, receipt: Receipt | None, answer: bytes) -> None:
        """Keeps the answer; nothing where there is no receipt."""
        if receipt is None:
            return
        at = _now()
        connection.execute(delete(self.table).where(*self._of(receipt), self.table.c.expire_time <= at))
        recorded = {
            "tenant": receipt.tenant,
            "method": receipt.method,
            "request_id": receipt.request_id,
            "digest": receipt.digest,
            "result": answer,
            "expire_time": at + REQUEST_TTL,
        }
        connection.execute(insert(self.table), recorded)

    def forget(self, connection: Connection, receipt: Receipt) -> None:
        """Drops an answer that was taken back."""
        connection.execute(delete(self.table).where(*self._of(receipt)))

    def erase(self, connection: Connection, tenant: str, limit: int) -> int:
        """Drops at most so many answers to a tenant; returns how many."""
        columns = self.table.c
        some = select(columns.method, columns.request_id).where(columns.tenant == tenant).limit(limit)
        named = tuple_(columns.method, columns.request_id)
        gone = delete(self.table).where(columns.tenant == tenant, named.in_(some))
        return connection.execute(gone).rowcount

    def prune(self, connection: Connection, at: datetime) -> int:
        """Drops answers that have expired; returns how many."""
        return connection.execute(delete(self.table).where(self.table.c.expire_time <= at)).rowcount

    def _of(self, receipt: Receipt) -> tuple[ColumnElement[bool], ...]:
        columns = self.table.c
        return (
            columns.tenant == receipt.tenant,
            columns.method == receipt.method,
            columns.request_id == receipt.request_id,
        )


def _now() -> datetime:
    return datetime.now(UTC)
