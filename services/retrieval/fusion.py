"""Merging rankings into one: by reciprocal rank, or by normalised score."""

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, TypeAlias, TypeVar

# The sort needs ids that compare; Python has no type for that.
Id = TypeVar("Id", bound=Any)
Ranking: TypeAlias = Sequence[tuple[Id, float]]
"""Ids with their scores, best first; ties by id."""


@dataclass(frozen=True, slots=True)
class Rrf:
    """Reciprocal rank fusion with one weight a stage."""

    k: int = 60
    dense_weight: float = 1.0
    sparse_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Dbsf:
    """Distribution-based score fusion."""


Fusion: TypeAlias = Rrf | Dbsf

DEFAULT_FUSION: Final = Rrf()

# Digits of a lead that stores agree on: they compute scores in single precision, each in its own order.
_TELLING_DIGITS: Final = 5


def ranked(scores: Sequence[tuple[Id, float]]) -> Ranking[Id]:
    """`scores` with the best first; ties by id, so that equal stores answer alike."""
    by_id = sorted(scores, key=itemgetter(0))
    return sorted(by_id, key=itemgetter(1), reverse=True)  # equal scores keep their order


def fuse(
    rankings: Sequence[Ranking[Id]],
    *,
    k: int = 60,
    weights: Sequence[float] | None = None,
    settled: int = 10,
) -> Ranking[Id]:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009): score = sum of weight / (k + rank), rank from 1.

    Ranks are few, so many sums are equal: first and second here, second and first there. Of these the one goes first
    that leads by more, its scores normalised as `fuse_by_distribution` does (docs/benchmarks.md tells what it gives),
    and otherwise the one with the lower id.

    Args:
        settled: So many of the first are ordered so; what is equal further down goes by id.

    Raises:
        ValueError: weights given, but not one per ranking.
    """
    weights = weights or [1.0] * len(rankings)
    fused: dict[Id, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, (id_, _) in enumerate(ranking, start=1):
            fused[id_] = fused.get(id_, 0.0) + weight / (k + rank)
    order = ranked(list(fused.items()))
    end = settled
    while 0 < end < len(order) and order[end][1] == order[end - 1][1]:
        end += 1
    leads = _normalised(rankings, weights, {id_ for id_, _ in order[:end]})
    head = sorted(order[:end], key=lambda entry: (entry[1], round(leads[entry[0]], _TELLING_DIGITS)), reverse=True)
    return [*head, *order[end:]]


def fuse_by_distribution(rankings: Sequence[Ranking[Id]]) -> Ranking[Id]:
    """Distribution-based score fusion: scores mapped so that mean - 3 deviations is 0 and mean + 3 is 1, then added.

    A ranking whose scores are all the same gives .5 each (Mazzeschi's method, as in Qdrant's documentation).
    """
    every = {id_ for ranking in rankings for id_, _ in ranking}
    return ranked(list(_normalised(rankings, [1.0] * len(rankings), every).items()))


def _normalised(rankings: Sequence[Ranking[Id]], weights: Sequence[float], wanted: AbstractSet[Id]) -> dict[Id, float]:
    """The sums of the wanted ids' normalised and weighted scores."""
    sums: dict[Id, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        scores = [score for _, score in ranking]
        if not scores:
            continue
        mean = math.fsum(scores) / len(scores)
        deviation = math.sqrt(math.fsum([(score - mean) ** 2 for score in scores]) / max(1, len(scores) - 1))
        low, width = mean - 3 * deviation, 6 * deviation
        for id_, score in ranking:
            if id_ in wanted:
                sums[id_] = sums.get(id_, 0.0) + weight * ((score - low) / width if width > 0 else 0.5)
    return sums


def merge(fusion: Fusion, dense: Ranking[Id] | None, sparse: Ranking[Id] | None, *, settled: int = 10) -> Ranking[Id]:
    """The rankings of the stages that ran as one; a single stage keeps its own scores.

    Args:
        settled: As in `fuse`: how many of the first are asked for.
    """
    if dense is None or sparse is None:
        return dense if dense is not None else sparse if sparse is not None else []
    match fusion:
        case Rrf(k, dense_weight, sparse_weight):
            return fuse([dense, sparse], k=k, weights=[dense_weight, sparse_weight], settled=settled)
        case Dbsf():
            return fuse_by_distribution([dense, sparse])
