"""What was made of the same objects is given again, and of no others."""

from functools import partial

import pytest

from services.retrieval.lately import Lately


class Thing:
    """Equal to every other."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 0


def test_the_same_objects_are_known_again_and_their_equals_are_not() -> None:
    lately: Lately[object] = Lately()
    one, other = Thing(), Thing()
    made = lately.of((one, other), object)
    assert lately.of((one, other), object) is made
    assert lately.of((other, one), object) is not made
    assert lately.of((one, Thing()), object) is not made


def test_the_oldest_is_forgotten_first() -> None:
    lately: Lately[int] = Lately(most=2)
    things = [Thing() for _ in range(3)]
    for number, thing in enumerate(things):
        lately.of((thing,), partial(int, number))
    assert [lately.of((thing,), lambda: -1) for thing in reversed(things)] == [2, 1, -1]


def test_what_cannot_be_made_is_tried_again() -> None:
    lately: Lately[float] = Lately()
    thing = Thing()
    with pytest.raises(ZeroDivisionError):
        lately.of((thing,), lambda: 1 / 0)
    assert lately.of((thing,), lambda: 0.25) == 0.25
