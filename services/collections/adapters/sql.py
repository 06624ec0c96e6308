"""The registry in SQL: a SQLite file, or PostgreSQL by URL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog
from sqlalchemy import ColumnElement, Connection, Select, Text, delete, event, func, insert, literal, select, update
from sqlalchemy import exc as sql_errors
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from services.collections.adapters.sql_filter import Columns, add_functions
from services.collections.adapters.sql_lists import paged
from services.collections.adapters.sql_rows import (
    collection_from,
    collection_values,
    document_from,
    document_values,
)
from services.collections.adapters.sql_schema import upgrade
from services.collections.adapters.sql_tables import COLLECTIONS, DOCUMENTS, OUTBOX, RECEIPTS, SEQUENCES
from services.collections.ports import ChangeCollection, ChangeDocuments
from services.collections.records import (
    REQUEST_TTL,
    Collection,
    Delta,
    Document,
    DocumentTotals,
    Receipt,
    decode,
    encode,
    now,
)
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, RequestIdReused
from services.mesh.filters import EVERYTHING
from services.mesh.lists import ListQuery, Page

T = TypeVar("T")

_BUSY_TIMEOUT_S: Final = 10.0
_COUNTS: Final = ("revision", "document_count", "chunk_count", "size_bytes")
# What the database says of a statement of ours; every other error is the database's own state.
_DEFECTS: Final = (sql_errors.IntegrityError, sql_errors.ProgrammingError, sql_errors.DataError)
# Execution option that says how SQLite begins: IMMEDIATE takes the write lock at once, so that nothing read before a
# write can have changed by then (a deferred transaction fails there instead, whatever the busy timeout).
_BEGIN: Final = "ragweave_begin"


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file."""
    return URL.create("sqlite+aiosqlite", database=str(path))


class SqlStore:
    """Fulfils RegistryStore. On PostgreSQL a row lock, on SQLite the database's write lock orders writers."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._sqlite = engine.dialect.name == "sqlite"
        # SQLite has one writer at a time: waiting here costs no polling.
        self._writer: AbstractAsyncContextManager[Any] = asyncio.Lock() if self._sqlite else nullcontext()
        self._reading = engine.execution_options(**{_BEGIN: "DEFERRED"})
        self._glancing = engine.execution_options(**{_BEGIN: ""})
        self._log = structlog.get_logger("collections.sql")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | URL, *, pool_size: int = 5) -> AsyncIterator[Self]:
        """The store at `url`, its schema brought up to date; a SQLite file is made where there is none.

        Args:
            url: sqlite:///path or postgresql://user:password@host/database.

        Raises:
            UnknownSchema: The database was written by a newer version.
            DependencyUnavailable: The database does not answer.
        """
        engine = _engine(make_url(url), pool_size)
        store = cls(engine)
        try:
            async with store._transaction(writing=True) as connection:
                await connection.run_sync(upgrade)
            yield store
        finally:
            await engine.dispose()

    async def find_collection(self, tenant: str, collection_id: str) -> Collection | None:
        row = await self._glance(_live_collections().where(*_named(tenant, collection_id)))
        return row and collection_from(row)

    async def list_collections(self, tenant: str, query: ListQuery) -> Page[Collection]:
        columns = _columns(COLLECTIONS, COLLECTIONS.c.collection_id, "collections/", self._engine)
        found = _live_collections().where(COLLECTIONS.c.tenant == tenant, columns.where(query.filter))
        async with self._transaction() as connection:
            rows = await _page(connection, found, query, COLLECTIONS, COLLECTIONS.c.collection_id)
            total = int((await connection.execute(_counted(found))).scalar_one())
        collections = [collection_from(row) for row in rows]
        return query.page(collections, total, lambda each: collection_values(each) | {"name": each.name})

    async def write_collection(
        self, tenant: str, collection_id: str, change: ChangeCollection, receipt: Receipt | None = None
    ) -> Collection:
        async def write(connection: AsyncConnection) -> Collection:
            if receipt and (answered := await _recalled(connection, receipt, Collection)):
                return answered
            sequence = await _next_sequence(connection)
            locked = _live_collections().where(*_named(tenant, collection_id)).with_for_update()
            row = (await connection.execute(locked)).one_or_none()
            current = row and collection_from(row)
            changed = change(current)
            if changed != current:
                changed = replace(changed, sequence=sequence)
                await _put_collection(connection, current, changed)
            await _remember(connection, receipt, changed)
            return changed

        return await self._write(write)

    async def purge_collection(self, uid: str) -> None:
        async def write(connection: AsyncConnection) -> None:
            deleted = COLLECTIONS.c.delete_time.is_not(None)
            await connection.execute(delete(COLLECTIONS).where(COLLECTIONS.c.uid == uid, deleted))

        await self._write(write)

    async def deleted_collections(
        self, *, before: datetime | None = None, tenant: str | None = None, collection_id: str | None = None
    ) -> list[Collection]:
        found = select(COLLECTIONS).where(COLLECTIONS.c.delete_time.is_not(None)).order_by(COLLECTIONS.c.sequence)
        if before is not None:
            found = found.where(COLLECTIONS.c.delete_time < before)
        if tenant is not None:
            found = found.where(COLLECTIONS.c.tenant == tenant)
        if collection_id is not None:
            found = found.where(COLLECTIONS.c.collection_id == collection_id)
        return [collection_from(row) for row in await self._read(found)]

    async def expired_collections(self, at: datetime) -> list[Collection]:
        found = _live_collections().where(COLLECTIONS.c.expire_time <= at)
        return [collection_from(row) for row in await self._read(found)]

    async def latest(self, after: int, limit: int) -> list[Collection]:
        found = _live_collections().where(COLLECTIONS.c.sequence > after).order_by(COLLECTIONS.c.sequence).limit(limit)
        return [collection_from(row) for row in await self._read(found)]

    async def changes(self, after: int, limit: int) -> list[Collection]:
        found = select(OUTBOX.c.payload).where(OUTBOX.c.sequence > after).order_by(OUTBOX.c.sequence).limit(limit)
        return [decode(Collection, row.payload) for row in await self._read(found)]

    async def last_sequence(self) -> int:
        row = await self._glance(select(func.coalesce(func.max(OUTBOX.c.sequence), 0).label("last")))
        return int(row.last)

    async def find_documents(
        self, collection: Collection, document_ids: Sequence[str], *, deleted: bool = False
    ) -> list[Document]:
        state = DOCUMENTS.c.delete_time.is_not(None) if deleted else DOCUMENTS.c.delete_time.is_(None)
        rows = await self._read(_named_documents(collection, document_ids).where(state))
        return [document_from(row, collection) for row in rows]

    async def list_documents(self, collection: Collection, query: ListQuery) -> Page[Document]:
        columns = _columns(DOCUMENTS, DOCUMENTS.c.document_id, f"{collection.name}/documents/", self._engine)
        found = _live_documents(collection).where(columns.where(query.filter))
        counted = _counted(found)
        if query.filter == EVERYTHING:
            counted = select(COLLECTIONS.c.document_count).where(COLLECTIONS.c.uid == collection.uid)
        async with self._transaction() as connection:
            rows = await _page(connection, found, query, DOCUMENTS, DOCUMENTS.c.document_id)
            total = int((await connection.execute(counted)).scalar_one())
        documents = [document_from(row, collection) for row in rows]
        return query.page(documents, total, lambda each: document_values(each) | {"name": each.name})

    async def write_documents(
        self,
        collection: Collection,
        document_ids: Sequence[str],
        change: ChangeDocuments,
        receipt: Receipt | None = None,
    ) -> tuple[Document, ...]:
        async def write(connection: AsyncConnection) -> tuple[Document, ...]:
            if receipt and (answered := await _recalled(connection, receipt, tuple[Document, ...])):
                return answered
            locked = _live_collections().where(COLLECTIONS.c.uid == collection.uid).with_for_update()
            row = (await connection.execute(locked)).one_or_none()
            if row is None:
                raise CollectionNotFound(f"{collection.name} was deleted", collection=collection.name)
            rows = (await connection.execute(_named_documents(collection, document_ids))).all()
            before = {row.document_id: document_from(row, collection) for row in rows}
            changed = change(before)
            after = {**before, **changed}
            await _put_documents(connection, before, changed)
            delta = Delta.of([before.get(each) for each in document_ids], [after.get(each) for each in document_ids])
            await _count(connection, collection_from(row), delta)
            result = tuple(document for each in document_ids if (document := after.get(each)))
            await _remember(connection, receipt, result)
            return result

        return await self._write(write)

    async def list_source_documents(self, collection: Collection, source_key: str, after: str, limit: int) -> list[str]:
        beyond = _live_documents(collection).where(
            DOCUMENTS.c.source_key == source_key, DOCUMENTS.c.document_id > after
        )
        ids = beyond.with_only_columns(DOCUMENTS.c.document_id).order_by(DOCUMENTS.c.document_id).limit(limit)
        return [row.document_id for row in await self._read(ids)]

    async def unfinished_documents(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        since = func.coalesce(DOCUMENTS.c.delete_time, DOCUMENTS.c.unsettled_time)
        unfinished = DOCUMENTS.c.delete_time.is_not(None) | DOCUMENTS.c.unsettled_time.is_not(None)
        found = select(DOCUMENTS).where(unfinished, since < before).limit(limit)
        async with self._transaction() as connection:
            rows = (await connection.execute(found)).all()
            of = _live_collections().where(COLLECTIONS.c.uid.in_({row.collection_uid for row in rows}))
            collections = {row.uid: collection_from(row) for row in await connection.execute(of)}
        return [
            (collection, document_from(row, collection))
            for row in rows
            if (collection := collections.get(row.collection_uid))
        ]

    async def totals(self, collection: Collection) -> DocumentTotals:
        counted = _live_documents(collection).with_only_columns(
            DOCUMENTS.c.state,
            func.count().label("documents"),
            func.sum(DOCUMENTS.c.token_count).label("tokens"),
            func.sum(DOCUMENTS.c.size_bytes).label("size_bytes"),
            func.max(DOCUMENTS.c.update_time, type_=DOCUMENTS.c.update_time.type).label("last_write_time"),
        )
        by_state = {row.state: row for row in await self._read(counted.group_by(DOCUMENTS.c.state))}
        numbers = {state: row.documents for state, row in by_state.items()}
        return DocumentTotals(
            active=numbers.get("ACTIVE", 0),
            pending=numbers.get("PENDING", 0),
            failed=numbers.get("FAILED", 0),
            tokens=int(by_state["ACTIVE"].tokens) if "ACTIVE" in by_state else 0,
            size_bytes=sum(int(row.size_bytes) for row in by_state.values()),
            last_write_time=max((row.last_write_time for row in by_state.values()), default=None),
        )

    async def recall(self, receipt: Receipt, kind: type[T]) -> T | None:
        async with self._transaction() as connection:
            return await _recalled(connection, receipt, kind)

    async def forget(self, receipt: Receipt) -> None:
        async def write(connection: AsyncConnection) -> None:
            await connection.execute(delete(RECEIPTS).where(*_of(receipt)))

        await self._write(write)

    async def prune_receipts(self, at: datetime) -> None:
        async def write(connection: AsyncConnection) -> None:
            await connection.execute(delete(RECEIPTS).where(RECEIPTS.c.expire_time <= at))

        await self._write(write)

    async def check(self) -> None:
        await self._glance(select(SEQUENCES.c.value))

    async def _glance(self, statement: Select[Any]) -> Any:
        """The one row of a statement, or None; without a transaction around it."""
        async with self._answering(), self._glancing.connect() as connection:
            return (await connection.execute(statement)).one_or_none()

    async def _read(self, statement: Select[Any]) -> Sequence[Any]:
        async with self._answering(), self._glancing.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(statement)).all()
            return rows

    async def _write(self, write: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """What `write` returns, committed. Of two writers with one receipt, the second is given the first's answer."""
        try:
            async with self._transaction(writing=True) as connection:
                return await write(connection)
        except sql_errors.IntegrityError:
            async with self._transaction(writing=True) as connection:
                return await write(connection)

    @asynccontextmanager
    async def _transaction(self, *, writing: bool = False) -> AsyncIterator[AsyncConnection]:
        async with self._answering():
            if not writing:
                async with self._reading.begin() as connection:
                    yield connection
                return
            async with self._writer, self._engine.begin() as connection:
                yield connection

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            yield
        except (sql_errors.DBAPIError, sql_errors.TimeoutError, OSError) as error:
            if isinstance(error, _DEFECTS):
                raise
            self._log.error("the registry's database does not answer", exc_info=error)
            raise DependencyUnavailable("the registry's database does not answer", retry_after_s=1.0) from None


def _engine(url: URL, pool_size: int) -> AsyncEngine:
    if url.get_backend_name() == "postgresql":
        return create_async_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            pool_pre_ping=True,
            pool_timeout=_BUSY_TIMEOUT_S,
            connect_args={"connect_timeout": int(_BUSY_TIMEOUT_S), "options": "-c timezone=UTC"},
        )
    assert url.database
    Path(url.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=pool_size,
        pool_timeout=_BUSY_TIMEOUT_S,
        connect_args={"timeout": _BUSY_TIMEOUT_S, "isolation_level": None},
    )
    event.listen(engine.sync_engine, "connect", _configure_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    add_functions(engine.sync_engine)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """The driver is told not to begin by itself (isolation_level None): it would do so too late for reads."""
    mode = connection.get_execution_options().get(_BEGIN, "IMMEDIATE")
    if mode:
        connection.exec_driver_sql(f"BEGIN {mode}")


def _live_collections() -> Select[Any]:
    return select(COLLECTIONS).where(COLLECTIONS.c.delete_time.is_(None))


def _named(tenant: str, collection_id: str) -> tuple[ColumnElement[bool], ...]:
    return COLLECTIONS.c.tenant == tenant, COLLECTIONS.c.collection_id == collection_id


def _live_documents(collection: Collection) -> Select[Any]:
    return select(DOCUMENTS).where(DOCUMENTS.c.collection_uid == collection.uid, DOCUMENTS.c.delete_time.is_(None))


def _named_documents(collection: Collection, document_ids: Sequence[str]) -> Select[Any]:
    return select(DOCUMENTS).where(
        DOCUMENTS.c.collection_uid == collection.uid, DOCUMENTS.c.document_id.in_(document_ids)
    )


def _columns(table: Any, id_column: ColumnElement[Any], prefix: str, engine: AsyncEngine) -> Columns:
    """The table's columns by field; `name` is what callers see."""
    fields = {column.name: column for column in table.c}
    return Columns({**fields, "name": literal(prefix, Text) + id_column}, engine.dialect)


async def _page(
    connection: AsyncConnection, found: Select[Any], query: ListQuery, table: Any, id_column: ColumnElement[Any]
) -> Sequence[Any]:
    """The query's rows. Names of one parent order as their ids do, and the ids have an index."""
    columns = Columns({**{column.name: column for column in table.c}, "name": id_column}, connection.dialect)
    if query.cursor is not None:
        values = zip(query.order, query.cursor, strict=True)
        bare = tuple(str(value).rpartition("/")[2] if key.field == "name" else value for key, value in values)
        query = replace(query, cursor=bare)
    rows: Sequence[Any] = (await connection.execute(paged(found, query, columns))).all()
    return rows


def _counted(found: Select[Any]) -> Select[Any]:
    return found.with_only_columns(func.count())


async def _next_sequence(connection: AsyncConnection) -> int:
    counted = update(SEQUENCES).values(value=SEQUENCES.c.value + 1).returning(SEQUENCES.c.value)
    return int((await connection.execute(counted)).scalar_one())


async def _put_collection(connection: AsyncConnection, before: Collection | None, after: Collection) -> None:
    values = collection_values(after)
    if before is None:
        await connection.execute(insert(COLLECTIONS), values)
        kind = "collection.created"
    else:
        await connection.execute(update(COLLECTIONS).where(COLLECTIONS.c.uid == before.uid).values(values))
        kind = "collection.deleted" if after.delete_time else "collection.updated"
    recorded = {
        "sequence": after.sequence,
        "tenant": after.tenant,
        "kind": kind,
        "payload": encode(after),
        "event_time": now(),
    }
    await connection.execute(insert(OUTBOX), recorded)


async def _put_documents(connection: AsyncConnection, before: dict[str, Document], changed: Any) -> None:
    removed = [before[each].uid for each, document in changed.items() if document is None and each in before]
    if removed:
        await connection.execute(delete(DOCUMENTS).where(DOCUMENTS.c.uid.in_(removed)))
    added = [document_values(each) for name, each in changed.items() if each is not None and name not in before]
    if added:
        await connection.execute(insert(DOCUMENTS), added)
    for document_id, document in changed.items():
        if document is not None and document_id in before and document != before[document_id]:
            row = DOCUMENTS.c.uid == before[document_id].uid
            await connection.execute(update(DOCUMENTS).where(row).values(document_values(document)))


async def _count(connection: AsyncConnection, collection: Collection, delta: Delta) -> None:
    if delta == Delta():
        return
    counted = delta.added_to(collection)
    values = {name: getattr(counted, name) for name in _COUNTS}
    await connection.execute(update(COLLECTIONS).where(COLLECTIONS.c.uid == collection.uid).values(values))


def _of(receipt: Receipt) -> tuple[ColumnElement[bool], ...]:
    return (
        RECEIPTS.c.tenant == receipt.tenant,
        RECEIPTS.c.method == receipt.method,
        RECEIPTS.c.request_id == receipt.request_id,
    )


async def _recalled(connection: AsyncConnection, receipt: Receipt, kind: type[T]) -> T | None:
    row = (await connection.execute(select(RECEIPTS).where(*_of(receipt)))).one_or_none()
    if row is None or row.expire_time <= now():
        return None
    if row.digest != receipt.digest:
        raise RequestIdReused(f"request_id {receipt.request_id!r} came before with another body")
    return decode(kind, row.result)


async def _remember(connection: AsyncConnection, receipt: Receipt | None, result: object) -> None:
    if receipt is None:
        return
    answered = {
        "tenant": receipt.tenant,
        "method": receipt.method,
        "request_id": receipt.request_id,
        "digest": receipt.digest,
        "result": encode(result),
        "expire_time": now() + REQUEST_TTL,
    }
    await connection.execute(delete(RECEIPTS).where(*_of(receipt), RECEIPTS.c.expire_time <= now()))
    await connection.execute(insert(RECEIPTS), answered)
