"""A list query as SQL: rows after the cursor, by any mix of ascending and descending keys, missing values lowest."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, false, func, or_

from services.mesh.lists import CursorValue, ListQuery, Order
from services.mesh.sql.filters import Columns, Condition, bound

Listed: TypeAlias = tuple[Sequence[Row[Any]], int]


def listed(found: Select[Any], query: ListQuery, columns: Columns) -> Callable[[Connection], Listed]:
    """Work that reads a page of what is found (see `paged`) and how many there are; of one moment in a READ."""

    def read(connection: Connection) -> Listed:
        rows = connection.execute(paged(found, query, columns)).all()
        return rows, connection.execute(found.with_only_columns(func.count(), maintain_column_froms=True)).scalar_one()

    return read


def paged(statement: Select[Any], query: ListQuery, columns: Columns) -> Select[Any]:
    """`statement` in the query's order, from its cursor or offset on: one row more than fits, which tells of more.

    The query's filter is the caller's to apply (`columns.where(query.filter)`), since the total needs it too.
    """
    for order in query.order:
        column = columns.ordering(order.field)
        statement = statement.order_by(column.desc().nulls_last() if order.descending else column.asc().nulls_first())
    if query.cursor is not None:
        statement = statement.where(_after(query.cursor, query.order, columns))
    return statement.limit(query.page_size + 1).offset(query.offset or None)


def _after(cursor: tuple[CursorValue, ...], order: tuple[Order, ...], columns: Columns) -> Condition:
    """Rows that differ from the cursor first in a key where they come later."""
    later: list[Condition] = []
    same: list[Condition] = []
    for key, value in zip(order, cursor, strict=True):
        column = columns.ordering(key.field)
        later.append(and_(*same, _follows(column, key.descending, value)))
        same.append(_equals(column, value))
    return or_(false(), *later)


def _follows(column: ColumnElement[Any], descending: bool, value: CursorValue) -> Condition:
    if value is None:
        return false() if descending else column.is_not(None)
    last = bound(column, value)
    return or_(column < last, column.is_(None)) if descending else column > last


def _equals(column: ColumnElement[Any], value: CursorValue) -> Condition:
    return column.is_(None) if value is None else column == bound(column, value)
