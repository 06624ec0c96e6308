"""A filter tree as Qdrant's filter: one compiler for qdrant_client's models and qdrant_edge's classes."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import ModuleType
from typing import Any, Final

import numpy

from services.mesh.errors import InvalidFilter
from services.mesh.filters import AllOf, AnyOf, Comparison, Filter, Has, Not, Operator, Path, Value, leaves

_BOUNDS: Final = {Operator.LT: "lt", Operator.LE: "lte", Operator.GT: "gt", Operator.GE: "gte"}


class QdrantFilters:
    """Compiles trees into the classes of one of Qdrant's two Python packages.

    Payload indexes may go on declared fields, each by its type, and keyword indexes anywhere. Not so indexes of numbers
    and timestamps on free-form keys: a range that meets one of the other type there finds nothing, or too much.

    Args:
        types: `qdrant_client.models` or `qdrant_edge`; the caller imports the one it runs on, so that neither process
            pays for the other's.
        keys: The payload key of a declared field where it is not the field's own dotted name.
        instants: The payload key of a free-form field's timestamps (qdrant_instants) by the field's name.
    """

    def __init__(
        self,
        types: ModuleType,
        keys: Mapping[str, str] | None = None,
        instants: Mapping[str, str] | None = None,
    ) -> None:
        self._types = types
        self._keys = keys or {}
        self._instants = instants or {}
        self._is_edge = hasattr(types, "RangeFloat")

    def compile(self, tree: Filter) -> Any:
        """`tree` as a Filter, also where it is a single condition; EVERYTHING is the Filter without conditions.

        Raises:
            InvalidFilter: text is compared by order, which Qdrant cannot do.
        """
        match tree:
            case AllOf(parts):
                return self._types.Filter(must=[self._condition(part) for part in parts])
            case AnyOf(parts):
                return self._types.Filter(should=[self._condition(part) for part in parts])
            case Not(part):
                return self._types.Filter(must_not=[self._condition(part)])
            case Has(path, default):
                absent = [self._is_empty(path)]
                if default is not None:
                    absent.append(self._equals(path, default))
                return self._types.Filter(must_not=absent)
            case Comparison():
                return self._types.Filter(must=[self._condition(tree)])

    def texts(self, tree: Filter) -> set[str]:
        """The payload keys that a tree compares with texts: what an index of keywords serves.

        Those are left out whose names have to be quoted.
        """
        paths = {leaf.path for leaf in leaves(tree) if _of_text(leaf)}
        return {self._key(path) for path in paths if all(_quoted(part) == part for part in path)}

    def counted(self, key: str, values: Collection[int]) -> Any:
        """A Filter of the chunks with one of these integers at a key whose values are counted.

        The index of such a key knows no ranges, which is what `compile` makes of numbers, since those of filters are
        doubles: each chunk's whole payload would be read.
        """
        return self._types.Filter(must=[self._matches((key,), self._types.MatchAny(any=list(values)))])

    def _condition(self, tree: Filter) -> Any:
        if not isinstance(tree, Comparison):
            return self.compile(tree)
        match tree.operator:
            case Operator.EQ:
                return self._equals(tree.path, tree.value)
            case Operator.PREFIX:
                return self._matches(tree.path, self._types.MatchPrefix(prefix=tree.value))
            case Operator.SUBSTRING:
                return self._matches(tree.path, self._types.MatchSubstring(substring=tree.value))
            case _:
                return self._ranges(tree.path, tree.value, _BOUNDS[tree.operator])

    def _equals(self, path: Path, value: Value) -> Any:
        if isinstance(value, bool | str):
            return self._matches(path, self._types.MatchValue(value=self._exact(value)))
        # Match takes integers and misses 2.0 where 2 is stored; a range sees both as doubles.
        return self._ranges(path, value, "gte", "lte")

    def _exact(self, value: bool | str) -> Any:
        # qdrant_edge 0.9 takes Python's bool for the integer it also is, which equals no boolean; numpy's it reads.
        return numpy.bool_(value) if self._is_edge and isinstance(value, bool) else value

    def _matches(self, path: Path, match: Any) -> Any:
        return self._types.FieldCondition(key=self._key(path), match=match)

    def _ranges(self, path: Path, value: Value, *bounds: str) -> Any:
        match value:
            case bool() | str():
                raise InvalidFilter(f"filter: {'.'.join(path)} cannot be ordered in a search; use = or !=")
            case datetime() if path[0] in self._instants and len(path) > 1:
                return self._truly(path, self._datetimes(dict.fromkeys(bounds, value.astimezone(UTC))))
            case datetime():
                bounded = self._datetimes(dict.fromkeys(bounds, value.astimezone(UTC)))
            case _:
                numbers = self._types.RangeFloat if self._is_edge else self._types.Range
                bounded = numbers(**dict.fromkeys(bounds, value))
        return self._types.FieldCondition(key=self._key(path), range=bounded)

    def _truly(self, path: Path, bounded: Any) -> Any:
        """A range of timestamps at a path; of the second copy where there is one."""
        field, second = self._types.FieldCondition, self._instants[path[0]]
        as_written = [field(key=self._key(path), range=bounded), self._is_empty((second,))]
        copied = field(key=self._key((second, *path[1:])), range=bounded)
        return self._types.Filter(should=[self._types.Filter(must=as_written), copied])

    def _datetimes(self, bounds: Mapping[str, datetime]) -> Any:
        if self._is_edge:
            return self._types.RangeDateTime(**{bound: moment.isoformat() for bound, moment in bounds.items()})
        return self._types.DatetimeRange(**bounds)

    def _is_empty(self, path: Path) -> Any:
        key = self._key(path)
        if self._is_edge:
            return self._types.IsEmptyCondition(key=key)
        return self._types.IsEmptyCondition(is_empty=self._types.PayloadField(key=key))

    def _key(self, path: Path) -> str:
        for length in range(len(path), 0, -1):
            renamed = self._keys.get(".".join(path[:length]))
            if renamed is not None:
                return ".".join((renamed, *map(_quoted, path[length:])))
        return ".".join(map(_quoted, path))


def _of_text(leaf: Comparison | Has) -> bool:
    return isinstance(leaf, Comparison) and leaf.operator is Operator.EQ and isinstance(leaf.value, str)


def _quoted(key: str) -> str:
    plain = key.isascii() and key.replace("_", "a").replace("-", "a").isalnum()
    return key if plain else f'"{key}"'
