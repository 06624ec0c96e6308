"""Facets: how often each value of a field occurs among the chunks that a search's filter lets through."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from services.mesh.filters import Path
from services.retrieval.fields import path_named
from services.retrieval.values import Counts, ValueCount, ValueCounter

DEFAULT_VALUES: Final = 10

# Values of two types that occur as often come in this order.
_TYPES: Final = (bool, float, str)


@dataclass(frozen=True, slots=True)
class FacetAsked:
    """A facet as asked for: the path of a field, and how many values to return."""

    field: str
    limit: int = DEFAULT_VALUES


@dataclass(frozen=True, slots=True)
class Faceting:
    """A facet as it is counted.

    Attributes:
        field: As it was asked for.
        limit: Values to return.
    """

    field: str
    path: Path
    limit: int


@dataclass(frozen=True, slots=True)
class Facet:
    """The values of a field, most frequent first."""

    field: str
    counts: Sequence[ValueCount]


def resolved(asked: Sequence[FacetAsked]) -> tuple[Faceting, ...]:
    """The facets, their fields known.

    Raises:
        InvalidArgument: A field is none that is counted; named, as `facets[0].field`.
    """
    return tuple(
        Faceting(each.field, path_named(each.field, f"facets[{place}].field"), each.limit)
        for place, each in enumerate(asked)
    )


def counted(facets: Sequence[Faceting], counts: Iterable[Counts]) -> list[Facet]:
    """The facets, in order.

    Args:
        counts: Of each collection, by facet.
    """
    together = ValueCounter([each.path for each in facets])
    for each in counts:
        together.add(each)
    return [
        Facet(facet.field, sorted(values, key=_place)[: facet.limit])
        for facet, values in zip(facets, together.counts, strict=True)
    ]


def _place(counted: ValueCount) -> tuple[int, int, str | float | bool]:
    return -counted.times, _TYPES.index(type(counted.value)), counted.value
