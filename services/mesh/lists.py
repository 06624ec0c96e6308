"""What every List method shares (AIP-132, AIP-158): page sizes, order, filters, page tokens and numbered pages."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeAlias, TypeVar

from services.mesh.errors import InvalidArgument, InvalidPageToken, Violation
from services.mesh.filters import FieldType, Filter, Schema, evaluate, instant, parse, unparse

T = TypeVar("T")
CursorValue: TypeAlias = str | int | float | bool | datetime | None

DEFAULT_PAGE_SIZE: Final = 20
MAX_PAGE_SIZE: Final = 100

_TOKEN_VERSION: Final = 1
_ORDER = re.compile(r"\s*([\w.]+)(?:\s+(asc|desc))?\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Order:
    """One key of the order: a declared field, missing values lowest."""

    field: str
    descending: bool = False

    def __str__(self) -> str:
        return f"{self.field} desc" if self.descending else self.field


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Items of one page, the token of the next ("" on the last) and how many items match in all."""

    items: tuple[T, ...]
    next_page_token: str
    total_size: int


@dataclass(frozen=True, slots=True)
class ListQuery:
    """One page of a list, asked for: what to keep, in which order, and where to begin.

    Args:
        order: Ends with the unique key, so every item has one place.
        cursor: Values of `order`'s fields in the last item of the page before; None from the beginning.
        offset: Items to skip (numbered pages); 0 with a cursor.
        binding: Ties the page tokens made here to the filter, order and parent.
    """

    filter: Filter
    order: tuple[Order, ...]
    page_size: int
    cursor: tuple[CursorValue, ...] | None
    offset: int
    binding: str

    def page(self, rows: Sequence[T], total_size: int, read: Callable[[T], Mapping[str, Any]]) -> Page[T]:
        """The page made of `rows`: as many as fit, and one more where another page follows.

        Args:
            rows: At most page_size + 1, those that come first after the cursor or offset.
            total_size: All that match, wherever the page is.
            read: An item as nested mappings by field name; gives the cursor its values.
        """
        items = tuple(rows[: self.page_size])
        more = len(rows) > self.page_size
        return Page(items, self.token(self.values(read(items[-1]))) if more else "", total_size)

    def values(self, resource: Mapping[str, Any]) -> tuple[CursorValue, ...]:
        """The values of the order's fields in `resource`."""
        return tuple(_value(resource, order.field) for order in self.order)

    def token(self, values: Sequence[CursorValue]) -> str:
        """The page token for what follows the item with these `values`; opaque to callers, safe in a URL."""
        cursor = [{"t": value.isoformat()} if isinstance(value, datetime) else value for value in values]
        content = json.dumps([_TOKEN_VERSION, self.binding, cursor], ensure_ascii=False, separators=(",", ":"))
        return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


@dataclass(frozen=True)
class Listing:
    """What one resource's List method offers; made once, as a constant.

    Args:
        schema: The fields that `filter` may name.
        sortable: The fields of `schema` that `order_by` may name: text, numbers, booleans, enums, timestamps.
        key: The sortable field that is unique and never missing; ends every order.
        default_order: Used where the request has no order_by, such as "create_time desc".
    """

    schema: Schema
    sortable: tuple[str, ...]
    key: str
    default_order: str = ""

    def query(
        self,
        *,
        filter: str = "",
        order_by: str = "",
        page_size: int = 0,
        page_token: str = "",
        page: int = 0,
        parent: str = "",
    ) -> ListQuery:
        """The request's fields, understood.

        Args:
            parent: Whatever else the list depends on, such as the collection; page tokens are tied to it.

        Raises:
            InvalidArgument: page_size or page is negative, page comes with page_token, order_by does not parse.
            InvalidFilter: filter does not parse.
            InvalidPageToken: the token is none of ours, or is of another filter, order or parent.
        """
        size = coerced_page_size(page_size)
        if page < 0:
            raise InvalidArgument.of("page", f"pages count from 1, found {page}")
        if page and page_token:
            raise InvalidArgument.of("page", "give page or page_token, not both")
        tree = parse(filter, self.schema)
        order = self.ordered(order_by)
        binding = _digest(unparse(tree), ", ".join(map(str, order)), parent)
        cursor = self._cursor(page_token, binding, order) if page_token else None
        return ListQuery(tree, order, size, cursor, max(page - 1, 0) * size, binding)

    def ordered(self, order_by: str) -> tuple[Order, ...]:
        """`order_by` ("field desc, other") or else the default order, the unique key at its end.

        Raises:
            InvalidArgument: a field that cannot be sorted by, or comes twice, or text that is no order.
        """
        orders: list[Order] = []
        for part in (order_by if order_by.strip() else self.default_order or self.key).split(","):
            found = _ORDER.fullmatch(part)
            field = found and self.schema.declared(found[1])
            if found is None or field not in self.sortable:
                supported = ", ".join(self.sortable)
                raise InvalidArgument.of("order_by", f"cannot order by {part.strip()!r:.60}; supported: {supported}")
            if field in [order.field for order in orders]:
                raise InvalidArgument.of("order_by", f"{field} comes twice")
            orders.append(Order(field, found[2] == "desc"))
        if self.key in [order.field for order in orders]:
            return tuple(orders[: [order.field for order in orders].index(self.key) + 1])
        return (*orders, Order(self.key))

    def _cursor(self, token: str, binding: str, order: tuple[Order, ...]) -> tuple[CursorValue, ...]:
        try:
            content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
            version, bound, values = content
            if version != _TOKEN_VERSION or not isinstance(values, list) or len(values) != len(order):
                raise ValueError("not a token of this version")
            cursor = tuple(self._read(key, value) for key, value in zip(order, values, strict=True))
        except (ValueError, TypeError, RecursionError):
            raise _refused("not a token that this method returned") from None
        if bound != binding:
            raise _refused("belongs to another filter, order_by or parent; start again without it")
        return cursor

    def _read(self, key: Order, value: Any) -> CursorValue:
        """A cursor's value, checked against its field: a token made up must not reach the database as another type."""
        if value is None and key.field != self.key:
            return None
        match self.schema.fields[key.field].type, value:
            case ((FieldType.STRING | FieldType.ENUM), str()) if "\0" not in value:
                value.encode()  # lone surrogates are no text to a database
                return value
            case FieldType.BOOL, bool():
                return value
            case FieldType.NUMBER, int() | float() if not isinstance(value, bool):
                if math.isfinite(value) and abs(value) < 2**63:
                    return value
            case FieldType.TIMESTAMP, {"t": str(text)}:
                moment = instant(text)
                if moment is not None:
                    return moment
        raise ValueError(f"{key.field} has another type")


def coerced_page_size(page_size: int) -> int:
    """0 becomes 20, more than 100 becomes 100 (AIP-158).

    Raises:
        InvalidArgument: it is negative.
    """
    if page_size < 0:
        raise InvalidArgument.of("page_size", f"must not be negative, found {page_size}")
    return min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)


def paginate(items: Iterable[T], query: ListQuery, read: Callable[[T], Mapping[str, Any]]) -> Page[T]:
    """The page of `query` over items in memory.

    Args:
        read: An item as nested mappings by field name: what the filter and the order look at.
    """
    found = [(query.values(resource), item) for item in items if evaluate(query.filter, resource := read(item))]
    for index, key in reversed(list(enumerate(query.order))):
        found.sort(key=_ranked(index), reverse=key.descending)
    total_size = len(found)
    if query.cursor is not None:
        found = [row for row in found if _follows(row[0], query.cursor, query.order)]
    rows = [item for _, item in found[query.offset : query.offset + query.page_size + 1]]
    return query.page(rows, total_size, read)


def _ranked(index: int) -> Callable[[tuple[tuple[CursorValue, ...], Any]], tuple[bool, Any]]:
    return lambda row: _rank(row[0][index])


def _follows(values: tuple[CursorValue, ...], cursor: tuple[CursorValue, ...], order: tuple[Order, ...]) -> bool:
    for value, last, key in zip(values, cursor, order, strict=True):
        if _rank(value) != _rank(last):
            return (_rank(value) > _rank(last)) is not key.descending
    return False


def _rank(value: CursorValue) -> tuple[bool, Any]:
    return value is not None, value


def _value(resource: Mapping[str, Any], field: str) -> CursorValue:
    found: Any = resource
    for key in field.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    if isinstance(found, datetime):
        return found.replace(tzinfo=found.tzinfo or UTC)
    return found  # type: ignore[no-any-return]  # a sortable field is a scalar, by its schema


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _refused(description: str) -> InvalidPageToken:
    return InvalidPageToken(f"page_token: {description}", violations=[Violation("page_token", description)])
