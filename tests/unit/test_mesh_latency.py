"""Latencies counted in buckets say what the latencies themselves do, but for five per cent."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh.latency import ACCURACY, LONGEST_S, SHORTEST_S, bucket_of, percentile_s

LATENCIES = st.lists(st.floats(SHORTEST_S, LONGEST_S), min_size=1, max_size=200)
PERCENTS = st.sampled_from([1, 50, 90, 95, 99, 100])


@given(LATENCIES, PERCENTS)
def test_a_percentile_is_off_by_five_per_cent_at_most(latencies: list[float], percent: int) -> None:
    exact = next(
        each for each in sorted(latencies) if sum(n <= each for n in latencies) * 100 >= percent * len(latencies)
    )
    assert percentile_s(Counter(map(bucket_of, latencies)), percent) == pytest.approx(exact, rel=ACCURACY + 1e-9)


def test_of_a_few_the_longest_is_not_hidden() -> None:
    assert percentile_s(Counter(map(bucket_of, (0.001, 0.001, 1.0))), 99) == pytest.approx(1.0, rel=ACCURACY)


@given(LATENCIES, LATENCIES, PERCENTS)
def test_what_two_processes_counted_adds_up_to_what_one_would_have(
    one: list[float], other: list[float], percent: int
) -> None:
    together = Counter(map(bucket_of, one)) + Counter(map(bucket_of, other))
    assert percentile_s(together, percent) == percentile_s(Counter(map(bucket_of, one + other)), percent)


@pytest.mark.parametrize(("seconds", "told"), [(0.0, SHORTEST_S), (1e-9, SHORTEST_S), (1e9, LONGEST_S)])
def test_what_is_out_of_range_counts_at_its_end(seconds: float, told: float) -> None:
    assert percentile_s({bucket_of(seconds): 1}, 50) == pytest.approx(told, rel=ACCURACY)


def test_of_nothing_there_is_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing was counted"):
        percentile_s({}, 50)
