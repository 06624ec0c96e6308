"""Values at the paths of a passage, and how often each occurs. Engines load it too, so it is light."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

Scalar = str | float | bool
"""What a value may be that is counted or grouped by."""

MAX_VALUE_LENGTH: Final = 512
"""Characters of the longest text that is counted as a value."""


class ValueCount(NamedTuple):
    """A value, and how many resources have it."""

    value: Scalar
    times: int


Counts = list[list[ValueCount]]
"""By path, in no order."""


class ValueCounter:
    """How many resources have each value, path by path; of a list each different value counts once."""

    def __init__(self, paths: Sequence[Sequence[str]]) -> None:
        self._paths = paths
        # True equals 1.0, and is another value.
        self._counts: list[Counter[tuple[type, Scalar]]] = [Counter() for _ in paths]

    @property
    def counts(self) -> Counts:
        return [[ValueCount(value, count) for (_, value), count in each.items()] for each in self._counts]

    def note(self, resource: Mapping[str, Any]) -> None:
        """Counts one resource in."""
        for path, counts in zip(self._paths, self._counts, strict=True):
            values = map(scalar, values_at(path, resource))
            counts.update({(type(value), value) for value in values if value is not None and _is_short(value)})

    def add(self, counts: Counts) -> None:
        """Counts in what was counted elsewhere, at the same paths."""
        for known, more in zip(self._counts, counts, strict=True):
            for value, count in more:
                known[type(value), value] += count


def scalar(value: Any) -> Scalar | None:
    """The value as what it is counted as, every number as a double; None where it is a list, an object or nothing."""
    match value:
        case bool() | str():
            return value
        case int() | float():
            return float(value)
    return None


def values_at(path: Sequence[str], resource: Mapping[str, Any]) -> list[Any]:
    """What is at the path: each of a list's elements; nothing where there is nothing."""
    found: Any = resource
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return list(found) if isinstance(found, list | tuple) else [] if found is None else [found]


def _is_short(value: Scalar) -> bool:
    return not isinstance(value, str) or len(value) <= MAX_VALUE_LENGTH
