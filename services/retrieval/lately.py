"""What was made of the same things a moment ago, given again."""

from collections.abc import Callable, Hashable
from typing import Final, TypeVar, cast

T = TypeVar("T")

# As many callers of one question are remembered; a text is seldom asked by more at a time.
_MOST: Final = 16


class Lately:
    """Keeps what was made of objects that do not change; the same objects, not their equals, are known again.

    Beyond 16, the oldest is forgotten.
    """

    __slots__ = ("_made",)

    def __init__(self) -> None:
        # The objects are held on to, so that no other takes their identity.
        self._made: dict[Hashable, tuple[tuple[object, ...], object]] = {}

    def of(self, things: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` makes of these things, or made of them before. What it raises is not kept.

        Args:
            things: One of them tells what is made, where several things are made of the same.
        """
        key = tuple(map(id, things))
        known = self._made.get(key)
        if known is None:
            known = self._made[key] = things, make()
            if len(self._made) > _MOST:
                del self._made[next(iter(self._made))]
        return cast(T, known[1])
