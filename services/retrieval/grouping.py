"""Groups: hits of the same document, or of the same value of a field, together."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from services.mesh.errors import InvalidArgument, Violation
from services.mesh.filters import Path
from services.retrieval.fields import path_named, resource_of
from services.retrieval.ranking import Hit
from services.retrieval.values import Scalar, scalar, values_at

MAX_GROUPED: Final = 200
"""Hits of all groups of a search."""

_DOCUMENT: Final = ("document",)


@dataclass(frozen=True, slots=True)
class GroupBy:
    """How hits are grouped, as asked for: "document" or a metadata path, and hits of each group."""

    field: str
    size: int = 1


@dataclass(frozen=True, slots=True)
class Grouping:
    """How hits are grouped.

    Attributes:
        size: Hits of each group.
    """

    path: Path
    size: int

    def value_of(self, hit: Hit) -> Scalar | None:
        """The value whose group the hit is in, a document's by its name; None where it is in none."""
        if self.path == _DOCUMENT:
            return f"collections/{hit.collection.collection_id}/documents/{hit.found.chunk.document.document_id}"
        values = map(scalar, values_at(self.path, resource_of(hit.found.chunk)))
        return next((value for value in values if value is not None), None)


@dataclass(frozen=True, slots=True)
class Group:
    """A value, and how many hits are of it."""

    value: Scalar
    hits: int


def resolved(asked: GroupBy, top_k: int) -> Grouping:
    """The grouping, its field known.

    Raises:
        InvalidArgument: No such field, or more hits than one search may group.
    """
    path = path_named(asked.field, "group_by.field", others=_DOCUMENT)
    if top_k * asked.size > MAX_GROUPED:
        found = f"top_k {top_k} times group_size {asked.size} is more than the {MAX_GROUPED} hits of all groups"
        violations = [Violation(field, found) for field in ("top_k", "group_by.group_size")]
        raise InvalidArgument(f"top_k: {found}", violations=violations)
    return Grouping(path, asked.size)


def grouped(hits: Sequence[Hit], grouping: Grouping, most: int) -> tuple[list[Hit], list[int]]:
    """The best hits of the groups, group by group, and how many each has; a group's place is that of its best hit.

    Args:
        hits: Best first; those without a value are in no group.
        most: Groups to keep.
    """
    groups: dict[Hashable, list[Hit]] = {}
    for hit in hits:
        value = grouping.value_of(hit)
        if value is None:
            continue
        members = groups.setdefault((type(value), value), [])
        if len(members) < grouping.size:
            members.append(hit)
    kept = list(groups.values())[:most]
    return [hit for members in kept for hit in members], [len(members) for members in kept]


def group_count(hits: Sequence[Hit], grouping: Grouping) -> int:
    """How many groups the hits make."""
    values = (grouping.value_of(hit) for hit in hits)
    return len({(type(value), value) for value in values if value is not None})


def valued(hits: Sequence[Hit], grouping: Grouping) -> list[Hit]:
    """Those of the hits that are in a group."""
    return [hit for hit in hits if grouping.value_of(hit) is not None]


def groups_of(hits: Sequence[Hit], grouping: Grouping) -> list[Group]:
    """The groups of hits that come group by group, each of them in one."""
    values = ((type(value), value) for hit in hits if (value := grouping.value_of(hit)) is not None)
    return [Group(value, sum(1 for _ in members)) for (_, value), members in groupby(values)]
