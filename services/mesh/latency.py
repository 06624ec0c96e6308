"""Latencies counted in buckets that grow by a constant factor, so that what many processes counted adds up exactly.

The sketch is DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019) over a fixed range.
"""

from collections.abc import Mapping
from math import ceil, log
from typing import Final

# What a percentile is off by at most, as a share of it.
ACCURACY: Final = 0.05
SHORTEST_S: Final = 1e-4
LONGEST_S: Final = 3600.0

_GROWTH: Final = (1 + ACCURACY) / (1 - ACCURACY)
_SCALE: Final = 1 / log(_GROWTH)
_LAST: Final = ceil(log(LONGEST_S / SHORTEST_S) * _SCALE)


def bucket_of(seconds: float) -> int:
    """The bucket a latency is counted in, from 0; what is out of range is counted at its end."""
    if seconds <= SHORTEST_S:
        return 0
    return min(ceil(log(seconds / SHORTEST_S) * _SCALE), _LAST)


def percentile_s(buckets: Mapping[int, int], percent: int) -> float:
    """Seconds that so many of a hundred did not exceed, by nearest rank: of a few, p99 is the longest.

    Args:
        buckets: How much was counted in each bucket; something in one of them.
        percent: From 1 to 100.
    """
    rank, seen = -(-percent * sum(buckets.values()) // 100), 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if 0 < rank <= seen:
            return _middle_s(bucket)
    raise ValueError("nothing was counted")


def _middle_s(bucket: int) -> float:
    """What is off by ACCURACY from both ends of a bucket."""
    if bucket == 0:
        return SHORTEST_S
    return min(SHORTEST_S * 2 * _GROWTH**bucket / (_GROWTH + 1), LONGEST_S)
