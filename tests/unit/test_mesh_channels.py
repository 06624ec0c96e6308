"""How long an outgoing call may take."""

import pytest

from services.mesh.channels import DEADLINE_MARGIN_S, outgoing_timeout_s


@pytest.mark.parametrize(
    ("bound_s", "asked_s", "remaining_s", "expected"),
    [
        (5.0, None, None, 5.0),
        (5.0, 2.0, None, 2.0),
        (5.0, 9.0, None, 5.0),
        (5.0, None, 3.0, 3.0 - DEADLINE_MARGIN_S),
        (5.0, 2.0, 9.0, 2.0),
        (5.0, None, 0.001, 0.0),
        (5.0, None, 0.0, 0.0),
    ],
)
def test_the_shortest_of_bound_wish_and_what_is_left_less_a_margin(
    bound_s: float, asked_s: float | None, remaining_s: float | None, expected: float
) -> None:
    assert outgoing_timeout_s(bound_s, asked_s, remaining_s) == expected
