"""Search as textbooks have it, apart from the services: every vector compared, BM25 by another library, RRF."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import bm25s
import numpy as np
import snowballstemmer
from numpy.typing import NDArray

K = 60
TOP = 10


@dataclass(frozen=True)
class Bm25:
    """What may differ between two that both are BM25: stop words (bm25s' lists: 33 or 127 words, or none) and k1."""

    stop_words: str | None = "english"
    k1: float = 1.2

    def __str__(self) -> str:
        return f"stop words {self.stop_words or 'none'}, k1 {self.k1}"


VARIANTS = [Bm25(stop_words, k1) for stop_words in ("english", "english_plus", None) for k1 in (1.2, 1.5)]


class ExactSearch:
    """Whole rankings of passages by their places.

    Args:
        vectors: One a passage, of length 1.
    """

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32], bm25: Bm25) -> None:
        self._vectors = vectors
        self._stop_words = bm25.stop_words
        self._stemmer = snowballstemmer.stemmer("english")
        self._bm25 = bm25s.BM25(method="lucene", k1=bm25.k1, b=0.75)
        self._bm25.index(self._tokens(texts), show_progress=False)

    def dense(self, question: NDArray[np.float32]) -> list[int]:
        return _order(self._vectors @ question, -math.inf)

    def sparse(self, question: str) -> list[int]:
        """Passages without a word of the question have no rank."""
        asked = [token for token in self._tokens([question])[0] if token in self._bm25.vocab_dict]
        return _order(self._bm25.get_scores(asked), 0.0) if asked else []

    def hybrid(self, question: str, vector: NDArray[np.float32]) -> list[int]:
        scores: dict[int, float] = {}
        for ranking in (self.dense(vector), self.sparse(question)):
            for rank, place in enumerate(ranking, start=1):
                scores[place] = scores.get(place, 0.0) + 1 / (K + rank)
        return sorted(scores, key=lambda place: -scores[place])

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        found = bm25s.tokenize(
            list(texts),
            stopwords=self._stop_words,
            stemmer=self._stemmer.stemWords,
            return_ids=False,
            show_progress=False,
        )
        return [list(each) for each in found]


def ndcg(found: Sequence[str], relevant: Collection[str]) -> float:
    """nDCG@10 with relevance 0 or 1."""
    gained = sum(_discount(rank) for rank, id_ in enumerate(found[:TOP], start=1) if id_ in relevant)
    return gained / sum(_discount(rank) for rank in range(1, min(TOP, len(relevant)) + 1))


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)


def _order(scores: NDArray[np.float32], least: float) -> list[int]:
    return [int(place) for place in np.argsort(-scores, kind="stable") if scores[place] > least]
