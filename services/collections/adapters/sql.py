"""The registry in SQL: a SQLite file, or PostgreSQL by URL."""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any, Final, Self, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Select,
    Text,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.engine import URL

from services.collections.adapters.sql_rows import (
    collection_from,
    collection_values,
    document_from,
    document_values,
)
from services.collections.adapters.sql_tables import COLLECTIONS, DOCUMENTS, OUTBOX, RECEIPTS, SEQUENCES
from services.collections.migrations import REGISTRY
from services.collections.ports import ChangeCollection, ChangeDocuments, RestoreCollection
from services.collections.records import (
    DELETED,
    Change,
    Collection,
    Delta,
    Document,
    DocumentTotals,
    amounts_of,
    decode,
    encode,
    now,
)
from services.mesh.errors import CollectionNotFound
from services.mesh.filters import EVERYTHING, Filter
from services.mesh.lists import ListQuery, Page
from services.mesh.quotas import COUNTED, Amounts, check_quota
from services.mesh.receipts import Receipt
from services.mesh.sql import Columns, Mode, OpenDatabase, paged

T = TypeVar("T")

_DOCUMENTS: Final = tuple[Document, ...]
_COUNTS: Final = ("revision", "document_count", "chunk_count", "size_bytes")


class SqlStore:
    """Fulfils RegistryStore. On PostgreSQL row locks, on SQLite the database's one write lock orders writers."""

    def __init__(self, database: OpenDatabase) -> None:
        self._database = database
        self._dialect = database.dialect

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | URL, *, pool_size: int = 5) -> AsyncIterator[Self]:
        """The store at `url`, its schema brought up to date; a SQLite file is made where there is none.

        Args:
            url: sqlite:///path or postgresql://user:password@host/database.
            pool_size: Most pieces of work, and connections, at a time.

        Raises:
            UnknownSchema: The database was written by a newer version.
            DependencyUnavailable: The database does not answer.
        """
        async with OpenDatabase.open(url, REGISTRY, pool_size=pool_size) as database:
            yield cls(database)

    async def find_collection(self, tenant: str, collection_id: str) -> Collection | None:
        named = {"tenant": tenant, "collection_id": collection_id}

        def read(connection: Connection) -> Any:
            return connection.execute(_BY_NAME, named).one_or_none()

        row = await self._database.run(read, Mode.ONE_READ)
        return None if row is None else collection_from(row)

    async def list_collections(self, tenant: str, query: ListQuery, *, deleted: bool = False) -> Page[Collection]:
        columns = _columns(COLLECTIONS, COLLECTIONS.c.collection_id, "collections/", self._dialect)
        found = select(COLLECTIONS).where(COLLECTIONS.c.tenant == tenant, columns.where(query.filter))
        found = found.where(_listed(COLLECTIONS, deleted))

        def read(connection: Connection) -> tuple[Sequence[Any], int]:
            rows = _page(connection, found, query, COLLECTIONS, COLLECTIONS.c.collection_id)
            return rows, connection.execute(_counted(found)).scalar_one()

        rows, total = await self._database.run(read, Mode.READ)
        collections = [collection_from(row) for row in rows]
        return query.page(collections, total, lambda each: collection_values(each) | {"name": each.name})

    async def write_collection(
        self,
        tenant: str,
        collection_id: str,
        change: ChangeCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        def write(connection: Connection) -> Collection:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return decode(Collection, answered)
            sequence = _next_sequence(connection)
            locked = _live_collections().where(*_named(tenant, collection_id)).with_for_update()
            row = connection.execute(locked).one_or_none()
            current = None if row is None else collection_from(row)
            changed = change(current)
            if limits is not None and current is None:
                _check_quota(connection, tenant, limits, amounts_of(changed))
            if changed != current:
                changed = replace(changed, sequence=sequence)
                _put_collection(connection, current, changed)
            RECEIPTS.record(connection, receipt, encode(changed))
            return changed

        return await self._database.write(write)

    async def restore_collection(
        self,
        tenant: str,
        collection_id: str,
        change: RestoreCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        def write(connection: Connection) -> Collection:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return decode(Collection, answered)
            sequence = _next_sequence(connection)
            row = connection.execute(_live_collections().where(*_named(tenant, collection_id))).one_or_none()
            rows = connection.execute(_deleted_collections(tenant, collection_id).with_for_update()).all()
            deleted = {row.uid: collection_from(row) for row in rows}
            back = change(None if row is None else collection_from(row), list(deleted.values()))
            if limits is not None:
                _check_quota(connection, tenant, limits, amounts_of(back))
            back = replace(back, sequence=sequence)
            _put_collection(connection, deleted[back.uid], back)
            RECEIPTS.record(connection, receipt, encode(back))
            return back

        return await self._database.write(write)

    async def settle_collection(self, collection: Collection) -> None:
        same = COLLECTIONS.c.uid == collection.uid, COLLECTIONS.c.sequence == collection.sequence
        settled = update(COLLECTIONS).where(*same).values(unsettled=False)
        await self._database.write(lambda connection: connection.execute(settled))

    async def begin_purge(self, uid: str) -> bool:
        begun = update(COLLECTIONS).where(COLLECTIONS.c.uid == uid, COLLECTIONS.c.delete_time.is_not(None))
        begun_at = now()
        earlier = case((COLLECTIONS.c.purge_time < begun_at, COLLECTIONS.c.purge_time), else_=begun_at)
        begun = begun.values(purging=True, purge_time=earlier)
        return bool(await self._database.write(lambda connection: connection.execute(begun).rowcount))

    async def purge_collection(self, uid: str) -> None:
        gone = delete(COLLECTIONS).where(COLLECTIONS.c.uid == uid, COLLECTIONS.c.purging.is_(True))
        await self._database.write(lambda connection: connection.execute(gone))

    async def deleted_collections(self, tenant: str, collection_id: str | None = None) -> list[Collection]:
        return [collection_from(row) for row in await self._database.read(_deleted_collections(tenant, collection_id))]

    async def collections_to_purge(self, before: datetime) -> list[Collection]:
        due = COLLECTIONS.c.delete_time.is_not(None), COLLECTIONS.c.purge_time < before
        return [collection_from(row) for row in await self._database.read(select(COLLECTIONS).where(*due))]

    async def unsettled_collections(self, before: datetime) -> list[Collection]:
        unsettled = COLLECTIONS.c.unsettled.is_(True), COLLECTIONS.c.update_time < before
        return [collection_from(row) for row in await self._database.read(select(COLLECTIONS).where(*unsettled))]

    async def expired_collections(self, at: datetime) -> list[Collection]:
        found = _live_collections().where(COLLECTIONS.c.expire_time <= at)
        return [collection_from(row) for row in await self._database.read(found)]

    async def latest(self, after: int, limit: int) -> list[Collection]:
        found = _live_collections().where(COLLECTIONS.c.sequence > after).order_by(COLLECTIONS.c.sequence).limit(limit)
        return [collection_from(row) for row in await self._database.read(found)]

    async def changes(self, after: int, limit: int) -> list[Change]:
        found = select(OUTBOX).where(OUTBOX.c.sequence > after).order_by(OUTBOX.c.sequence).limit(limit)
        rows = await self._database.read(found)
        return [Change(row.kind, row.event_time, decode(Collection, row.payload)) for row in rows]

    async def last_sequence(self) -> int:
        # The outbox may have lost its last entries with their tenant.
        (row,) = await self._database.read(select(SEQUENCES.c.value))
        return int(row.value)

    async def find_documents(
        self, collection: Collection, document_ids: Sequence[str], *, deleted: bool = False
    ) -> list[Document]:
        state = DOCUMENTS.c.delete_time.is_not(None) if deleted else DOCUMENTS.c.delete_time.is_(None)
        rows = await self._database.read(_named_documents(collection, document_ids).where(state))
        return [document_from(row, collection) for row in rows]

    async def find_contents(self, tenant: str, content_hashes: Iterable[str]) -> set[str]:
        wanted = (
            select(DOCUMENTS.c.content_hash)
            .join(COLLECTIONS, COLLECTIONS.c.uid == DOCUMENTS.c.collection_uid)
            .where(DOCUMENTS.c.content_hash.in_(list(content_hashes)), COLLECTIONS.c.tenant == tenant)
            .distinct()
        )
        return {row.content_hash for row in await self._database.read(wanted)}

    async def list_documents(
        self, collection: Collection, query: ListQuery, *, deleted: bool = False
    ) -> Page[Document]:
        found = self._matching(collection, query.filter, deleted=deleted)
        counted = _counted(found)
        if query.filter == EVERYTHING and not deleted:
            counted = select(COLLECTIONS.c.document_count).where(COLLECTIONS.c.uid == collection.uid)

        def read(connection: Connection) -> tuple[Sequence[Any], int]:
            rows = _page(connection, found, query, DOCUMENTS, DOCUMENTS.c.document_id)
            return rows, connection.execute(counted).scalar_one()

        rows, total = await self._database.run(read, Mode.READ)
        documents = [document_from(row, collection) for row in rows]
        return query.page(documents, total, lambda each: document_values(each) | {"name": each.name})

    async def write_documents(
        self,
        collection: Collection,
        document_ids: Sequence[str],
        change: ChangeDocuments,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> tuple[Document, ...]:
        def write(connection: Connection) -> tuple[Document, ...]:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return decode(_DOCUMENTS, answered)
            locked = _live_collections().where(COLLECTIONS.c.uid == collection.uid).with_for_update()
            row = connection.execute(locked).one_or_none()
            if row is None:
                raise CollectionNotFound(f"{collection.name} was deleted", collection=collection.name)
            rows = connection.execute(_named_documents(collection, document_ids)).all()
            before = {row.document_id: document_from(row, collection) for row in rows}
            changed = change(before)
            after = {**before, **changed}
            delta = Delta.of([before.get(each) for each in document_ids], [after.get(each) for each in document_ids])
            if limits is not None:
                _check_quota(connection, collection.tenant, limits, delta.amounts)
            _put_documents(connection, before, changed)
            _count(connection, collection_from(row), delta)
            result = tuple(document for each in document_ids if (document := after.get(each)))
            RECEIPTS.record(connection, receipt, encode(result))
            return result

        return await self._database.write(write)

    async def list_source_documents(self, collection: Collection, source_key: str, after: str, limit: int) -> list[str]:
        beyond = _live_documents(collection).where(
            DOCUMENTS.c.source_key == source_key, DOCUMENTS.c.document_id > after
        )
        ids = beyond.with_only_columns(DOCUMENTS.c.document_id).order_by(DOCUMENTS.c.document_id).limit(limit)
        return [row.document_id for row in await self._database.read(ids)]

    async def select_documents(self, collection: Collection, filter: Filter, after: str, limit: int) -> list[Document]:
        beyond = self._matching(collection, filter).where(DOCUMENTS.c.document_id > after)
        rows = await self._database.read(beyond.order_by(DOCUMENTS.c.document_id).limit(limit))
        return [document_from(row, collection) for row in rows]

    async def count_documents(self, collection: Collection, filter: Filter) -> int:
        (row,) = await self._database.read(_counted(self._matching(collection, filter)))
        return int(row[0])

    def _matching(self, collection: Collection, filter: Filter, *, deleted: bool = False) -> Select[Any]:
        columns = _columns(
            DOCUMENTS, DOCUMENTS.c.document_id, f"{collection.name}/documents/", self._dialect, state=_SHOWN_STATE
        )
        found = select(DOCUMENTS).where(DOCUMENTS.c.collection_uid == collection.uid, columns.where(filter))
        return found.where(_listed(DOCUMENTS, deleted))

    async def unfinished_documents(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        unfinished = DOCUMENTS.c.purging.is_(False), DOCUMENTS.c.unsettled_time < before
        return await self._with_collections(select(DOCUMENTS).where(*unfinished).limit(limit))

    async def pending_documents(
        self, before: datetime, after_uid: str, limit: int
    ) -> list[tuple[Collection, Document]]:
        exists = COLLECTIONS.c.delete_time.is_(None), DOCUMENTS.c.delete_time.is_(None)
        waiting = DOCUMENTS.c.state == "PENDING", DOCUMENTS.c.update_time < before, DOCUMENTS.c.uid > after_uid
        found = select(DOCUMENTS).join(COLLECTIONS).where(*exists, *waiting)
        return await self._with_collections(found.order_by(DOCUMENTS.c.uid).limit(limit))

    async def documents_to_purge(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        # Those of deleted collections go with them: not to be in the way of others, they are not even looked at.
        exists = COLLECTIONS.c.delete_time.is_(None)
        due = select(DOCUMENTS).join(COLLECTIONS).where(exists, DOCUMENTS.c.purge_time < before)
        return await self._with_collections(due.order_by(DOCUMENTS.c.purge_time).limit(limit))

    async def _with_collections(self, found: Select[Any]) -> list[tuple[Collection, Document]]:
        """Documents with the collections they are in; without those whose collection is deleted."""

        def read(connection: Connection) -> list[tuple[Collection, Document]]:
            rows = connection.execute(found).all()
            of = _live_collections().where(COLLECTIONS.c.uid.in_({row.collection_uid for row in rows}))
            collections = {row.uid: collection_from(row) for row in connection.execute(of)}
            return [
                (collection, document_from(row, collection))
                for row in rows
                if (collection := collections.get(row.collection_uid))
            ]

        return await self._database.run(read, Mode.READ)

    async def totals(self, collection: Collection) -> DocumentTotals:
        counted = _live_documents(collection).with_only_columns(
            DOCUMENTS.c.state,
            func.count().label("documents"),
            func.sum(DOCUMENTS.c.token_count).label("tokens"),
            func.sum(DOCUMENTS.c.size_bytes).label("size_bytes"),
            func.max(DOCUMENTS.c.update_time, type_=DOCUMENTS.c.update_time.type).label("last_write_time"),
        )
        mine = DOCUMENTS.c.collection_uid == collection.uid
        gone = select(func.sum(DOCUMENTS.c.chunk_count).label("chunks")).where(
            mine, DOCUMENTS.c.purge_time.is_not(None), DOCUMENTS.c.state == "ACTIVE"
        )
        by_state = {row.state: row for row in await self._database.read(counted.group_by(DOCUMENTS.c.state))}
        ((hidden,),) = await self._database.read(gone)
        numbers = {state: row.documents for state, row in by_state.items()}
        return DocumentTotals(
            active=numbers.get("ACTIVE", 0),
            pending=numbers.get("PENDING", 0),
            failed=numbers.get("FAILED", 0),
            tokens=int(by_state["ACTIVE"].tokens) if "ACTIVE" in by_state else 0,
            size_bytes=sum(int(row.size_bytes) for row in by_state.values()),
            last_write_time=max((row.last_write_time for row in by_state.values()), default=None),
            hidden_chunks=int(hidden or 0),
        )

    async def usage(self, tenant: str) -> Amounts:
        return await self._database.run(lambda connection: _usage(connection, tenant), Mode.ONE_READ)

    async def sizes(self, largest: int) -> tuple[Amounts, dict[str, Amounts]]:
        return await self._database.run(lambda connection: _sizes(connection, largest), Mode.READ)

    async def recall(self, receipt: Receipt, kind: type[T]) -> T | None:
        answered = await self._database.run(lambda connection: RECEIPTS.recall(connection, receipt), Mode.ONE_READ)
        return None if answered is None else decode(kind, answered)

    async def remember(self, receipt: Receipt, result: T, kind: type[T]) -> T:
        def write(connection: Connection) -> T:
            if (answered := RECEIPTS.recall(connection, receipt)) is not None:
                return decode(kind, answered)
            RECEIPTS.record(connection, receipt, encode(result))
            return result

        return await self._database.write(write)

    async def forget(self, receipt: Receipt) -> None:
        await self._database.write(lambda connection: RECEIPTS.forget(connection, receipt))

    async def prune_receipts(self, at: datetime) -> int:
        return await self._database.write(lambda connection: RECEIPTS.prune(connection, at))

    async def erase(self, tenant: str, *, before: datetime, limit: int) -> tuple[int, bool]:
        answers = RECEIPTS.table
        told = select(OUTBOX.c.sequence).where(OUTBOX.c.tenant == tenant)
        old = told.where(OUTBOX.c.event_time < before).limit(limit)

        def write(connection: Connection) -> tuple[int, bool]:
            dropped = RECEIPTS.erase(connection, tenant, limit)
            dropped += connection.execute(delete(OUTBOX).where(OUTBOX.c.sequence.in_(old))).rowcount
            more = select(answers.c.method).where(answers.c.tenant == tenant)
            left = [connection.execute(found.limit(1)).first() for found in (more, told)]
            return dropped, any(row is not None for row in left)

        return await self._database.write(write)

    async def compact(self) -> bool:
        return await self._database.compact()

    async def check(self) -> None:
        await self._database.read(select(SEQUENCES.c.value))


def _live_collections() -> Select[Any]:
    return select(COLLECTIONS).where(COLLECTIONS.c.delete_time.is_(None))


_BY_NAME: Final = _live_collections().where(
    COLLECTIONS.c.tenant == bindparam("tenant"), COLLECTIONS.c.collection_id == bindparam("collection_id")
)


_AMOUNTS: Final = (COLLECTIONS.c.document_count, COLLECTIONS.c.chunk_count, COLLECTIONS.c.size_bytes)
_WHOLE: Final = select(func.count(), *(func.coalesce(func.sum(column), 0) for column in _AMOUNTS)).where(
    COLLECTIONS.c.delete_time.is_(None)
)
_USAGE: Final = _WHOLE.where(COLLECTIONS.c.tenant == bindparam("tenant"))
_LARGEST: Final = (
    select(COLLECTIONS.c.uid, *_AMOUNTS)
    .where(COLLECTIONS.c.delete_time.is_(None))
    .order_by(COLLECTIONS.c.chunk_count.desc(), COLLECTIONS.c.uid)
    .limit(bindparam("largest"))
)


def _named(tenant: str, collection_id: str) -> tuple[ColumnElement[bool], ...]:
    return COLLECTIONS.c.tenant == tenant, COLLECTIONS.c.collection_id == collection_id


def _live_documents(collection: Collection) -> Select[Any]:
    return select(DOCUMENTS).where(DOCUMENTS.c.collection_uid == collection.uid, DOCUMENTS.c.delete_time.is_(None))


def _named_documents(collection: Collection, document_ids: Sequence[str]) -> Select[Any]:
    return select(DOCUMENTS).where(
        DOCUMENTS.c.collection_uid == collection.uid, DOCUMENTS.c.document_id.in_(document_ids)
    )


_SHOWN_STATE: Final = case((DOCUMENTS.c.delete_time.is_not(None), literal(DELETED, Text)), else_=DOCUMENTS.c.state)


def _deleted_collections(tenant: str, collection_id: str | None) -> Select[Any]:
    found = select(COLLECTIONS).where(COLLECTIONS.c.tenant == tenant, COLLECTIONS.c.delete_time.is_not(None))
    if collection_id is not None:
        found = found.where(COLLECTIONS.c.collection_id == collection_id)
    return found.order_by(COLLECTIONS.c.sequence.desc())


def _listed(table: Any, deleted: bool) -> ColumnElement[bool]:
    """What there is; with `deleted`, what can come back too."""
    there: ColumnElement[bool] = table.c.delete_time.is_(None)
    return there | (table.c.purging.is_(False) & (table.c.purge_time > now())) if deleted else there


def _columns(
    table: Any, id_column: ColumnElement[Any], prefix: str, dialect: Dialect, **shown: ColumnElement[Any]
) -> Columns:
    """The table's columns by field; `name`, and what is `shown` otherwise than kept, as callers see it."""
    fields = {column.name: column for column in table.c}
    return Columns({**fields, "name": literal(prefix, Text) + id_column, **shown}, dialect)


def _page(
    connection: Connection, found: Select[Any], query: ListQuery, table: Any, id_column: ColumnElement[Any]
) -> Sequence[Any]:
    """The query's rows. Names of one parent order as their ids do, and the ids have an index."""
    columns = Columns({**{column.name: column for column in table.c}, "name": id_column}, connection.dialect)
    if query.cursor is not None:
        values = zip(query.order, query.cursor, strict=True)
        bare = tuple(str(value).rpartition("/")[2] if key.field == "name" else value for key, value in values)
        query = replace(query, cursor=bare)
    rows: Sequence[Any] = connection.execute(paged(found, query, columns)).all()
    return rows


def _counted(found: Select[Any]) -> Select[Any]:
    return found.with_only_columns(func.count())


def _next_sequence(connection: Connection) -> int:
    counted = update(SEQUENCES).values(value=SEQUENCES.c.value + 1).returning(SEQUENCES.c.value)
    return int(connection.execute(counted).scalar_one())


def _put_collection(connection: Connection, before: Collection | None, after: Collection) -> None:
    values = collection_values(after)
    if before is None:
        connection.execute(insert(COLLECTIONS), values)
    else:
        connection.execute(update(COLLECTIONS).where(COLLECTIONS.c.uid == before.uid).values(values))
    change = Change.of(before, after)
    recorded = {
        "sequence": after.sequence,
        "tenant": after.tenant,
        "kind": change.kind,
        "payload": encode(after),
        "event_time": change.time,
    }
    connection.execute(insert(OUTBOX), recorded)


def _put_documents(connection: Connection, before: dict[str, Document], changed: Any) -> None:
    removed = [before[each].uid for each, document in changed.items() if document is None and each in before]
    if removed:
        connection.execute(delete(DOCUMENTS).where(DOCUMENTS.c.uid.in_(removed)))
    added = [document_values(each) for name, each in changed.items() if each is not None and name not in before]
    if added:
        connection.execute(insert(DOCUMENTS), added)
    for document_id, document in changed.items():
        if document is not None and document_id in before and document != before[document_id]:
            row = DOCUMENTS.c.uid == before[document_id].uid
            connection.execute(update(DOCUMENTS).where(row).values(document_values(document)))


def _count(connection: Connection, collection: Collection, delta: Delta) -> None:
    if delta == Delta():
        return
    counted = delta.added_to(collection)
    values = {name: getattr(counted, name) for name in _COUNTS}
    connection.execute(update(COLLECTIONS).where(COLLECTIONS.c.uid == collection.uid).values(values))


def _check_quota(connection: Connection, tenant: str, limits: Amounts, more: Amounts) -> None:
    """Writers of a tenant that add something wait here for one another, from their check to their commit."""
    if not any(getattr(more, name) > 0 for name in COUNTED):
        return
    if connection.dialect.name == "postgresql":  # SQLite has one writer at a time
        lock = func.pg_advisory_xact_lock(func.hashtextextended(f"quota of {tenant}", 0))
        connection.execute(select(lock))
    check_quota(tenant, limits=limits, usage=_usage(connection, tenant), more=more)


def _usage(connection: Connection, tenant: str) -> Amounts:
    """Added up from the counts that each collection keeps of itself: a row a collection, not one a document."""
    row = connection.execute(_USAGE, {"tenant": tenant}).one()
    return Amounts(*map(int, row))


def _sizes(connection: Connection, largest: int) -> tuple[Amounts, dict[str, Amounts]]:
    whole = connection.execute(_WHOLE).one()
    rows = connection.execute(_LARGEST, {"largest": largest}).all()
    return Amounts(*map(int, whole)), {row[0]: Amounts(1, *map(int, row[1:])) for row in rows}
