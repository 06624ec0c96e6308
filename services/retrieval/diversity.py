"""Maximal marginal relevance: an order of hits in which near copies do not follow each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.retrieval.chunks import StageScore
from services.retrieval.ranking import Hit

DEFAULT_CANDIDATES: Final = 100


@dataclass(frozen=True, slots=True)
class Mmr:
    """How hits are made to differ.

    Attributes:
        diversity: 0 is relevance only, 1 is diversity only.
        candidates: The best hits, which are put in a new order.
    """

    diversity: float
    candidates: int = DEFAULT_CANDIDATES


def diversified(hits: Sequence[Hit], mmr: Mmr) -> list[Hit]:
    """The hits in the order of maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998), without vectors.

    Each next hit is the one with the highest lambda * relevance + (1 - lambda) * novelty, which becomes its score;
    lambda is 1 - diversity. Relevance is the score so far, such that the best has 1: divided by the best, all raised
    before where the least is negative. Novelty is 1 less the greatest cosine to a hit chosen before, and 1 at most.
    Hits beyond the candidates keep their order behind them, as if they had no novelty.

    Args:
        hits: Best first, with vectors; those of two models do not compare, and count as different.
    """
    relevance = _relevance(hits)
    chosen = _chosen(relevance[: mmr.candidates], _cosines(hits[: mmr.candidates]), mmr.diversity)
    last = chosen[-1][1] if chosen else 0.0
    behind = (1.0 - mmr.diversity) * relevance[len(chosen) :]
    chosen += [(place, min(last, float(worth))) for place, worth in enumerate(behind, start=len(chosen))]
    return [_placed(hits[place], score, rank) for rank, (place, score) in enumerate(chosen, start=1)]


def _relevance(hits: Sequence[Hit]) -> NDArray[Any]:
    scores = np.array([hit.found.score for hit in hits])
    scores = scores - min(0.0, scores.min(initial=0.0))
    best = scores.max(initial=0.0)
    return scores / best if best > 0 else np.ones(len(scores))


def _cosines(hits: Sequence[Hit]) -> NDArray[Any]:
    """The cosine of each hit's vector to each other's; 0 where their models differ."""
    cosines = np.zeros((len(hits), len(hits)))
    models = [hit.collection.embedding_model for hit in hits]
    for model in set(models):
        places = [place for place, each in enumerate(models) if each == model]
        vectors = np.stack([np.frombuffer(hits[place].found.vector or b"", "<f4") for place in places])
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(lengths > 0, lengths, 1.0)
        cosines[np.ix_(places, places)] = unit @ unit.T
    return cosines


def _chosen(relevance: NDArray[Any], cosines: NDArray[Any], diversity: float) -> list[tuple[int, float]]:
    """Places in the order they are chosen in, with what each was worth then; of equals the first goes first."""
    novelty = np.ones(len(relevance))
    left = np.zeros(len(relevance))
    chosen: list[tuple[int, float]] = []
    for _ in range(len(relevance)):
        worth = (1.0 - diversity) * relevance + diversity * novelty + left
        place = int(worth.argmax())
        chosen.append((place, float(worth[place])))
        left[place] = -np.inf
        np.minimum(novelty, 1.0 - cosines[place], out=novelty)
    return chosen


def _placed(hit: Hit, score: float, rank: int) -> Hit:
    stages = (*hit.found.stages, StageScore("mmr", score, rank))
    return replace(hit, found=replace(hit.found, score=score, stages=stages, vector=None))
