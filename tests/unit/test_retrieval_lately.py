"""What was made of the same objects is given again, and of no others."""

import pytest

from services.retrieval.lately import Lately


class Thing:
    """Equal to every other."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing)

    def __hash__(self) -> int:
        return 0


def test_the_same_objects_are_known_again_and_their_equals_are_not() -> None:
    lately = Lately()
    one, other = Thing(), Thing()
    made = lately.of((one, other), object)
    assert lately.of((one, other), object) is made
    assert lately.of((other, one), object) is not made
    assert lately.of((one, Thing()), object) is not made


def test_the_oldest_of_seventeen_is_forgotten() -> None:
    lately = Lately()
    things = [Thing() for _ in range(17)]
    for number, thing in enumerate(things):
        assert lately.of((thing,), lambda number=number: number) == number
    assert [lately.of((thing,), lambda: -1) for thing in reversed(things)] == [*range(16, 0, -1), -1]


def test_what_cannot_be_made_is_tried_again() -> None:
    lately = Lately()
    thing = Thing()
    with pytest.raises(ZeroDivisionError):
        lately.of((thing,), lambda: 1 / 0)
    assert lately.of((thing,), lambda: 0.25) == 0.25
