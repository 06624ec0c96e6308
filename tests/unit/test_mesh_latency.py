"""Latencies counted in buckets say what the latencies themselves do, but for five per cent."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh.latency import ACCURACY, LONGEST_S, SHORTEST_S, bucket_of, quantile_s

LATENCIES = st.lists(st.floats(SHORTEST_S, LONGEST_S), min_size=1, max_size=200)
SHARES = st.sampled_from([0.0, 0.5, 0.9, 0.95, 0.99, 1.0])


@given(LATENCIES, SHARES)
def test_a_quantile_is_off_by_five_per_cent_at_most(latencies: list[float], share: float) -> None:
    exact = sorted(latencies)[int(share * (len(latencies) - 1))]
    assert quantile_s(Counter(map(bucket_of, latencies)), share) == pytest.approx(exact, rel=ACCURACY + 1e-9)


@given(LATENCIES, LATENCIES, SHARES)
def test_what_two_processes_counted_adds_up_to_what_one_would_have(
    one: list[float], other: list[float], share: float
) -> None:
    together = Counter(map(bucket_of, one)) + Counter(map(bucket_of, other))
    assert quantile_s(together, share) == quantile_s(Counter(map(bucket_of, one + other)), share)


@pytest.mark.parametrize(("seconds", "told"), [(0.0, SHORTEST_S), (1e-9, SHORTEST_S), (1e9, LONGEST_S)])
def test_what_is_out_of_range_counts_at_its_end(seconds: float, told: float) -> None:
    assert quantile_s({bucket_of(seconds): 1}, 0.5) == pytest.approx(told, rel=ACCURACY)


def test_of_nothing_there_is_no_quantile() -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        quantile_s({}, 0.5)
