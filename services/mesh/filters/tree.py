"""The filter tree: what the AIP-160 text and the typed filter both become, and every backend compiles.

What a tree means, in every backend alike:

- A comparison is true or false, never unknown. On a field that is missing or null it is false, so its negation is true:
  `a != 1` holds where `a` is missing (AIP-160: "true unless a equals 1"; Qdrant's must_not reads the same).
- On a list a comparison holds when it holds for some element; lists within lists and objects never compare.
- Types never mix: text equals text only, numbers compare as doubles, `true` is not 1.
- Text compares exactly, by code point, case and all. Timestamps compare as instants, to the microsecond; one without an
  offset is in UTC.
- A dot walks through objects only, not through lists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

Path: TypeAlias = tuple[str, ...]
Value: TypeAlias = str | float | bool | datetime


class Operator(StrEnum):
    """How a field's value is compared; `!=` is the negation of EQ, and `:` is EQ."""

    EQ = "="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    PREFIX = "prefix"
    SUBSTRING = "substring"


@dataclass(frozen=True, slots=True)
class Comparison:
    """The value at `path`, or an element of the list there, compares to `value`."""

    path: Path
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Has:
    """Something is at `path`: not null, not an empty list, not the field's `default`.

    A declared field has its type's default, which AIP-160 counts as absent; keys of maps and structs have none.
    """

    path: Path
    default: str | float | bool | None = None


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Filter"


Filter: TypeAlias = Comparison | Has | AllOf | AnyOf | Not

EVERYTHING = AllOf(())


def all_of(*parts: Filter) -> Filter:
    """Every part holds. Nested AllOfs are merged and a single part stands alone; no parts: EVERYTHING."""
    flat = _merged(AllOf, parts)
    return flat[0] if len(flat) == 1 else AllOf(flat)


def any_of(*parts: Filter) -> Filter:
    """Some part holds. Nested AnyOfs are merged and a single part stands alone.

    Raises:
        ValueError: no parts, which could match nothing.
    """
    if not parts:
        raise ValueError("any_of needs at least one part")
    flat = _merged(AnyOf, parts)
    if EVERYTHING in flat:
        return EVERYTHING
    return flat[0] if len(flat) == 1 else AnyOf(flat)


def negate(part: Filter) -> Filter:
    """`part` does not hold; a double negation is none.

    Raises:
        ValueError: the part is EVERYTHING, whose negation could match nothing.
    """
    if part == EVERYTHING:
        raise ValueError("the negation of an empty filter matches nothing")
    return part.part if isinstance(part, Not) else Not(part)


def depth(tree: Filter) -> int:
    """How many AllOf, AnyOf and Not stand within one another at most; a comparison alone has none."""
    match tree:
        case AllOf(parts) | AnyOf(parts):
            return 1 + max(map(depth, parts), default=-1)
        case Not(part):
            return 1 + depth(part)
    return 0


def leaves(tree: Filter) -> Iterator[Comparison | Has]:
    """Every comparison of the tree, in its order."""
    match tree:
        case AllOf(parts) | AnyOf(parts):
            for part in parts:
                yield from leaves(part)
        case Not(part):
            yield from leaves(part)
        case leaf:
            yield leaf


def _merged(kind: type[AllOf] | type[AnyOf], parts: tuple[Filter, ...]) -> tuple[Filter, ...]:
    return tuple(leaf for part in parts for leaf in (part.parts if isinstance(part, kind) else (part,)))
