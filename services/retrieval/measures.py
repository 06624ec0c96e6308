"""How good rankings are, by the measures of trec_eval, and whether two ways to rank differ by more than chance."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CUTOFFS: Final = (1, 3, 5, 10, 100)
MEASURES: Final = ("recall", "precision", "mrr", "ndcg")
PERMUTATIONS: Final = 10_000

_SEED: Final = 1
_PERMUTATIONS_AT_ONCE: Final = 500

Ranks = Sequence[tuple[int, int]]
"""What was found of what is relevant: rank, from 1, and grade, the best ranked first."""


@dataclass(frozen=True, slots=True)
class Measures:
    """Of the first k found, k counted even where fewer were: the same as trec_eval's recall_k, P_k, recip_rank and
    ndcg_cut_k.

    Attributes:
        mrr: 1 / rank of the first that is relevant; 0 where that is beyond k.
    """

    k: int
    recall: float
    precision: float
    mrr: float
    ndcg: float


def measured(found: Ranks, grades: Sequence[int]) -> list[Measures]:
    """The measures of one ranking at each cutoff.

    Gains are the grades themselves and discounts log2(rank + 1) (Järvelin and Kekäläinen, TOIS 2002), as trec_eval has
    them; the best order is that of all grades.

    Args:
        grades: Of all that is relevant, each at least 1.
    """
    best = sorted(grades, reverse=True)
    measures = []
    for k in CUTOFFS:
        within = [(rank, grade) for rank, grade in found if rank <= k]
        measures.append(
            Measures(
                k,
                recall=len(within) / len(grades),
                precision=len(within) / k,
                mrr=1 / within[0][0] if within else 0.0,
                ndcg=_gain(within) / _gain(list(enumerate(best[:k], start=1))),
            )
        )
    return measures


def mean_measures(each: Sequence[Sequence[Measures]]) -> list[Measures]:
    """The means over queries, at each cutoff; empty without queries."""
    return [
        Measures(of[0].k, *(math.fsum(getattr(one, name) for one in of) / len(of) for name in MEASURES))
        for of in zip(*each, strict=True)
    ]


def percentile(sorted_values: Sequence[float], share: float) -> float:
    """The least value that at least that share of them does not exceed (nearest rank); 0 of none."""
    return sorted_values[max(0, math.ceil(share * len(sorted_values)) - 1)] if sorted_values else 0.0


def chances(differences: Sequence[Sequence[float]]) -> list[float]:
    """For each kind of difference, how likely chance alone gives a mean as far from 0 as theirs.

    Fisher's randomization test, both sides (Smucker, Allan and Carterette, CIKM 2007): each query's sign is tossed, in
    `PERMUTATIONS` samples with a fixed seed. The same differences have the same answer.

    Args:
        differences: One row a query, one column a kind.
    """
    # Only processes that evaluate pay the 20 MB that it takes.
    import numpy as np

    table = np.asarray(differences, np.float64)
    observed = np.abs(table.sum(axis=0))
    random = np.random.default_rng(_SEED)
    as_far = np.zeros(table.shape[1], np.int64)
    for _ in range(PERMUTATIONS // _PERMUTATIONS_AT_ONCE):
        signs = random.integers(0, 2, (_PERMUTATIONS_AT_ONCE, len(table))) * 2.0 - 1.0
        # Sums of the same numbers in another order differ by rounding.
        as_far += (np.abs(signs @ table) >= observed - 1e-9).sum(axis=0)
    return [float((count + 1) / (PERMUTATIONS + 1)) for count in as_far]


def _gain(ranks: Ranks) -> float:
    return math.fsum(grade / math.log2(rank + 1) for rank, grade in ranks)
