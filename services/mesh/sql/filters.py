"""A filter tree as a SQLAlchemy condition, the same on SQLite and PostgreSQL (16 or newer); every value is bound."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from operator import eq, ge, gt, le, lt
from typing import Any, Final, Protocol, TypeAlias, assert_never

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Dialect,
    Double,
    Integer,
    Text,
    and_,
    case,
    cast,
    event,
    exists,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    true,
)
from sqlalchemy import (
    column as sql_column,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Engine
from sqlalchemy.types import JSON, String, TypeDecorator

from services.mesh.filters import AllOf, AnyOf, Comparison, Filter, Has, Not, Operator, Path, Value, instant
from services.mesh.filters.timestamps import INSTANT

Condition: TypeAlias = ColumnElement[bool]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_YEARS: Final = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
_COMPARED: Final[dict[Operator, Callable[[Any, Any], Any]]] = {
    Operator.EQ: eq,
    Operator.LT: lt,
    Operator.LE: le,
    Operator.GT: gt,
    Operator.GE: ge,
}


class Columns:
    """The columns behind a resource's declared fields.

    Text is ordered by code point: on PostgreSQL give text columns the collation "C", so that indexes serve it.

    Args:
        columns: A column by dotted field name; lists, maps and structs in JSON columns.
        dialect: The engine's: SQLite's (with `add_functions` on the engine) or PostgreSQL's.
    """

    def __init__(self, columns: Mapping[str, ColumnElement[Any]], dialect: Dialect) -> None:
        self._columns = columns
        self._json: _Json = _PostgresJson() if dialect.name == "postgresql" else _SqliteJson()

    def where(self, tree: Filter) -> Condition:
        """The condition of `tree`: true for what it selects, false or null for the rest."""
        match tree:
            case AllOf(parts):
                return and_(true(), *map(self.where, parts))
            case AnyOf(parts):
                return or_(false(), *map(self.where, parts))
            case Not(part):
                return not_(func.coalesce(self.where(part), false(), type_=Boolean))
            case Has(path, default):
                return self._has(path, default)
            case Comparison(path, operator, value):
                return self._compares(path, operator, value)
        assert_never(tree)

    def ordering(self, field: str) -> ColumnElement[Any]:
        """The column of `field` as its order is defined: text by code point."""
        return self._json.by_code_point(self._columns[field])

    def _has(self, path: Path, default: str | float | bool | None) -> Condition:
        column, keys = self._column(path)
        if keys or _is_json(column):
            return self._json.has(column, keys)
        present = column.is_not(None)
        return present if default is None else and_(present, column != bound(column, default))

    def _compares(self, path: Path, operator: Operator, value: Value) -> Condition:
        column, keys = self._column(path)
        if keys or _is_json(column):
            return self._json.compares(column, keys, operator, value)
        if operator in (Operator.PREFIX, Operator.SUBSTRING):
            return self._json.contains(column, operator, str(value))
        ordered = column if operator is Operator.EQ else self._json.by_code_point(column)
        condition: Condition = _COMPARED[operator](ordered, bound(column, value))
        return condition

    def _column(self, path: Path) -> tuple[ColumnElement[Any], Path]:
        for length in range(len(path), 0, -1):
            column = self._columns.get(".".join(path[:length]))
            if column is not None:
                return column, path[length:]
        raise KeyError(f"no column for {'.'.join(path)}")


def add_functions(engine: Engine) -> None:
    """Gives every connection of a SQLite engine (an AsyncEngine's `sync_engine`) the function filters need there."""

    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.create_function("instant_us", 1, _microseconds, deterministic=True)


def _microseconds(text: Any) -> int | None:
    moment = instant(text) if isinstance(text, str) else None
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


def _is_json(column: ColumnElement[Any]) -> bool:
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    return isinstance(kind, JSON)


def bound(column: ColumnElement[Any], value: Value) -> ColumnElement[Any]:
    """`value` as a parameter to compare `column` with; a number never takes an integer column's narrower type."""
    if isinstance(value, bool | str | datetime):
        return literal(value, column.type)
    if isinstance(column.type, Integer) and value == int(value) and abs(value) < 2**63:
        return literal(int(value), BigInteger)
    return literal(value, Double)


class _Json(Protocol):
    """What the two databases say differently."""

    def by_code_point(self, column: ColumnElement[Any]) -> ColumnElement[Any]: ...
    def contains(self, text: ColumnElement[Any], operator: Operator, value: str) -> Condition: ...
    def has(self, column: ColumnElement[Any], keys: Path) -> Condition: ...
    def compares(self, column: ColumnElement[Any], keys: Path, operator: Operator, value: Value) -> Condition: ...


class _SqliteJson:
    """JSON as text, walked with json_each: a key a step, so that keys need no escaping."""

    def by_code_point(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return column

    def contains(self, text: ColumnElement[Any], operator: Operator, value: str) -> Condition:
        if operator is Operator.SUBSTRING:
            return func.instr(text, literal(value, Text)) > 0
        return func.substr(text, 1, len(value)) == literal(value, Text)

    def has(self, column: ColumnElement[Any], keys: Path) -> Condition:
        if not keys:
            root = _each(column)
            return exists().select_from(root).where(or_(root.c.key.is_not(None), root.c.type != "null"))
        return self._reaching(column, keys, lambda at: and_(at.c.type != "null", at.c.value.is_distinct_from("[]")))

    def compares(self, column: ColumnElement[Any], keys: Path, operator: Operator, value: Value) -> Condition:
        if not keys:
            root = _each(column)
            return exists().select_from(root).where(self._leaf(root, operator, value))
        return self._reaching(column, keys, lambda at: self._some(at, operator, value))

    def _reaching(self, column: ColumnElement[Any], keys: Path, holds: Callable[[Any], Condition]) -> Condition:
        steps = [_each(column)]
        for _ in keys[1:]:
            steps.append(_each(_only("object", steps[-1], "{}")))
        named = [step.c.key == literal(key, Text) for step, key in zip(steps, keys, strict=True)]
        return exists().select_from(*steps).where(*named, holds(steps[-1]))

    def _some(self, at: Any, operator: Operator, value: Value) -> Condition:
        element = _each(_only("array", at, "[]"))
        within = exists().select_from(element).where(self._leaf(element, operator, value)).correlate(at)
        return or_(self._leaf(at, operator, value), within)

    def _leaf(self, at: Any, operator: Operator, value: Value) -> Condition:
        match value:
            case bool():
                return at.c.type == ("true" if value else "false")  # type: ignore[no-any-return]
            case int() | float():
                number = cast(at.c.value, Double)
                return and_(at.c.type.in_(["integer", "real"]), _COMPARED[operator](number, literal(value, Double)))
            case datetime():
                moment = literal(_microseconds(value.isoformat()), BigInteger)
                return and_(at.c.type == "text", _COMPARED[operator](func.instant_us(at.c.value), moment))
            case str() if operator is Operator.EQ:
                return and_(at.c.type == "text", at.c.value == literal(value, Text))
            case str():
                return and_(at.c.type == "text", self.contains(at.c.value, operator, value))


def _each(json: ColumnElement[Any]) -> Any:
    return func.json_each(json).table_valued("key", "value", "type", joins_implicitly=True)


def _only(kind: str, at: Any, otherwise: str) -> ColumnElement[Any]:
    """The value at a step where it is of `kind`: json_each refuses text that is not JSON."""
    return case((at.c.type == kind, at.c.value), else_=otherwise)


class _PostgresJson:
    """jsonb and its own operators; casts stand behind CASE, which PostgreSQL does not evaluate past."""

    def by_code_point(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        return column.collate("C") if isinstance(column.type, String) else column

    def contains(self, text: ColumnElement[Any], operator: Operator, value: str) -> Condition:
        if operator is Operator.SUBSTRING:
            return func.strpos(text, literal(value, Text)) > 0
        return func.starts_with(text, literal(value, Text), type_=Boolean)

    def has(self, column: ColumnElement[Any], keys: Path) -> Condition:
        at = self._at(column, keys)
        return and_(func.jsonb_typeof(at) != "null", at != literal_column("'[]'::jsonb"))

    def compares(self, column: ColumnElement[Any], keys: Path, operator: Operator, value: Value) -> Condition:
        at = self._at(column, keys)
        listed = case((func.jsonb_typeof(at) == "array", at), else_=func.jsonb_build_array(at, type_=JSONB))
        elements = func.jsonb_array_elements(listed).table_valued(sql_column("value", JSONB), joins_implicitly=True)
        return exists().select_from(elements).where(self._leaf(elements.c.value, operator, value))

    def _at(self, column: ColumnElement[Any], keys: Path) -> ColumnElement[Any]:
        at: ColumnElement[Any] = cast(column, JSONB)
        for key in keys:
            at = at.op("->", return_type=JSONB())(literal(key, Text))
        return at

    def _leaf(self, element: Any, operator: Operator, value: Value) -> Condition:
        text = element.op("#>>", return_type=Text())(literal_column("'{}'"))
        match value:
            case bool():
                return element == func.to_jsonb(literal(value, Boolean))  # type: ignore[no-any-return]
            case int() | float():
                return _typed(element, "number", _COMPARED[operator](cast(text, Double), literal(value, Double)))
            case datetime():
                return _typed(element, "string", self._instant(text, operator, value))
            case str() if operator is Operator.EQ:
                return _typed(element, "string", text == literal(value, Text))
            case str():
                return _typed(element, "string", self.contains(text, operator, value))

    def _instant(self, text: ColumnElement[Any], operator: Operator, value: datetime) -> Condition:
        # PostgreSQL rounds digits below the microsecond, reads no lower-case "t" and takes its own zone for none.
        cut = func.regexp_replace(func.upper(text), r"(\.\d{6})\d+", r"\1", type_=Text)
        whole = case((cut.regexp_match(r"(Z|[+-]\d\d:\d\d)$"), cut), else_=cut + literal(" UTC", Text))
        at = cast(whole, DateTime(timezone=True))
        # Offsets lead beyond the years that instants have.
        first, last = (literal(each, DateTime(timezone=True)) for each in _YEARS)
        within = at.between(first, last)
        moment = and_(within, _COMPARED[operator](at, literal(value, DateTime(timezone=True))))
        shaped = text.regexp_match(f"^({INSTANT.pattern})$")
        valid = case((shaped, func.pg_input_is_valid(whole, "timestamptz", type_=Boolean)), else_=false())
        return case((valid, moment), else_=false())


def _typed(element: Any, kind: str, condition: Condition) -> Condition:
    return case((func.jsonb_typeof(element) == kind, condition), else_=false())
