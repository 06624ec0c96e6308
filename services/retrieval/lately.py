"""What was made of the same things a moment ago, given again."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lately(Generic[T]):
    """Keeps what was made of objects that do not change; the same objects, not their equals, are known again.

    Args:
        most: How many are kept; beyond that, the oldest is forgotten.
    """

    def __init__(self, most: int = 1024) -> None:
        self._most = most
        # The objects are held on to, so that no other takes their identity.
        self._made: dict[Hashable, tuple[tuple[object, ...], T]] = {}

    def of(self, things: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` makes of these things, or made of them before. What it raises is not kept."""
        key = tuple(map(id, things))
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = things, make()
            if len(self._made) > self._most:
                del self._made[next(iter(self._made))]
        return known[1]
