"""Merging rankings into one: by reciprocal rank, or by normalised score."""

import math
from collections.abc import Sequence
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


def ranked(scores: Sequence[tuple[Id, float]]) -> Ranking[Id]:
    """`scores` with the best first; ties by id, so that equal stores answer alike."""
    by_id = sorted(scores, key=itemgetter(0))
    return sorted(by_id, key=itemgetter(1), reverse=True)  # equal scores keep their order


def fuse(rankings: Sequence[Ranking[Id]], *, k: int = 60, weights: Sequence[float] | None = None) -> Ranking[Id]:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009): score = sum of weight / (k + rank), rank from 1.

    Raises:
        ValueError: weights given, but not one per ranking.
    """
    fused: dict[Id, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, (id_, _) in enumerate(ranking, start=1):
            fused[id_] = fused.get(id_, 0.0) + weight / (k + rank)
    return ranked(list(fused.items()))


def fuse_by_distribution(rankings: Sequence[Ranking[Id]]) -> Ranking[Id]:
    """Distribution-based score fusion: scores mapped so that mean - 3 deviations is 0 and mean + 3 is 1, then added.

    A ranking whose scores are all the same gives .5 each (Mazzeschi's method, as in Qdrant's documentation).
    """
    fused: dict[Id, float] = {}
    for ranking in rankings:
        if not ranking:
            continue
        mean = math.fsum(score for _, score in ranking) / len(ranking)
        variance = math.fsum((score - mean) ** 2 for _, score in ranking) / max(1, len(ranking) - 1)
        low, width = mean - 3 * math.sqrt(variance), 6 * math.sqrt(variance)
        for id_, score in ranking:
            fused[id_] = fused.get(id_, 0.0) + ((score - low) / width if width > 0 else 0.5)
    return ranked(list(fused.items()))


def merge(fusion: Fusion, dense: Ranking[Id] | None, sparse: Ranking[Id] | None) -> Ranking[Id]:
    """The rankings of the stages that ran as one; a single stage keeps its own scores."""
    if dense is None or sparse is None:
        return dense if dense is not None else sparse if sparse is not None else []
    match fusion:
        case Rrf(k, dense_weight, sparse_weight):
            return fuse([dense, sparse], k=k, weights=[dense_weight, sparse_weight])
        case Dbsf():
            return fuse_by_distribution([dense, sparse])
