"""Latencies counted in buckets that grow by a constant factor, so that what many processes counted adds up exactly.

The sketch is DDSketch (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
guarantees", VLDB 2019) over a fixed range.
"""

from collections.abc import Mapping
from math import ceil, log
from typing import Final

# What a quantile is off by at most, as a share of it.
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


def quantile_s(buckets: Mapping[int, int], share: float) -> float:
    """Seconds that so large a share of what was counted did not exceed.

    Args:
        buckets: How much was counted in each bucket; something in one of them.
        share: From 0 to 1.
    """
    rank, seen = share * (sum(buckets.values()) - 1), 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen > rank:
            return _middle_s(bucket)
    raise ValueError("nothing was counted")


def _middle_s(bucket: int) -> float:
    """What is off by ACCURACY from both ends of a bucket."""
    if bucket == 0:
        return SHORTEST_S
    return min(SHORTEST_S * 2 * _GROWTH**bucket / (_GROWTH + 1), LONGEST_S)
