"""The reference meaning of a tree, in plain Python: what every compiler must agree with."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import ge, gt, le, lt
from typing import Any

from services.mesh.filters.timestamps import instant
from services.mesh.filters.tree import AllOf, AnyOf, Comparison, Filter, Has, Not, Operator, Path, Value

_COMPARED: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: lambda found, value: found == value,
    Operator.LT: lt,
    Operator.LE: le,
    Operator.GT: gt,
    Operator.GE: ge,
    Operator.PREFIX: lambda found, value: found.startswith(value),
    Operator.SUBSTRING: lambda found, value: value in found,
}


def evaluate(tree: Filter, resource: Mapping[str, Any]) -> bool:
    """Whether `resource`, nested mappings by field name, is among what `tree` selects."""
    match tree:
        case AllOf(parts):
            return all(evaluate(part, resource) for part in parts)
        case AnyOf(parts):
            return any(evaluate(part, resource) for part in parts)
        case Not(part):
            return not evaluate(part, resource)
        case Has(path, default):
            found = at(path, resource)
            return found is not None and found != [] and (default is None or not _compares(found, Operator.EQ, default))
        case Comparison(path, operator, value):
            found = at(path, resource)
            candidates = found if isinstance(found, list | tuple) else [found]
            return any(_compares(candidate, operator, value) for candidate in candidates)


def at(path: Path, resource: Mapping[str, Any]) -> Any:
    """What is at `path`; None where nothing is."""
    found: Any = resource
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _compares(found: Any, operator: Operator, value: Value) -> bool:
    same = _as_type_of(value, found)
    return same is not None and _COMPARED[operator](same, value)


def _as_type_of(value: Value, found: Any) -> Value | None:
    """`found` as something `value` compares to; None where their types differ."""
    match value:
        case bool():
            return found if isinstance(found, bool) else None
        case int() | float():
            return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None
        case datetime():
            if isinstance(found, datetime):
                return found.replace(tzinfo=found.tzinfo or UTC)
            return instant(found) if isinstance(found, str) else None
        case str():
            return found if isinstance(found, str) else None
