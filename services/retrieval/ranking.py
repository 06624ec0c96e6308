"""Hits, and how those of several collections become one ranking."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from services.retrieval.chunks import Chunk, Found, IndexId, Mode, ScoredChunk, StageScore
from services.retrieval.collection import CollectionView
from services.retrieval.fusion import Dbsf, Fusion, Ranking, Rrf, fuse, fuse_by_distribution, ranked

Key = tuple[IndexId, str, str]
"""Index, document and chunk."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found, and where.

    Attributes:
        highlights: Which of its characters are words of the query: (start, end) in code points.
        neighbors: The chunks beside it, in the document's order.
        stitched_text: The passage and its neighbors as one text.
    """

    found: ScoredChunk
    collection: CollectionView
    highlights: tuple[tuple[int, int], ...] = ()
    neighbors: tuple[Chunk, ...] = ()
    stitched_text: str = ""

    @property
    def key(self) -> Key:
        chunk = self.found.chunk
        return self.collection.uid, chunk.document.document_id, chunk.chunk_id


def together(views: Sequence[CollectionView], found: Sequence[Found], mode: Mode, fusion: Fusion) -> list[Hit]:
    """The hits of several collections as one ranking.

    Each stage ranks the hits of all collections by its own score, and these rankings are fused as those of one
    collection are. Cosines of two models do not compare, so each model has a dense ranking of its own; BM25 weighs
    words by each collection's own texts, as the shards of a search engine do. A stage that ran alone keeps its scores.
    """
    hits = {
        hit.key: hit for view, each in zip(views, found, strict=True) for hit in (Hit(one, view) for one in each.hits)
    }
    by_stage = sorted(
        ((score.stage, hit.collection.embedding_model if score.stage == "dense" else ""), key, score.score)
        for key, hit in hits.items()
        for score in hit.found.stages
    )
    rankings: dict[tuple[str, str], Ranking[Key]] = {
        stage: ranked([(key, score) for _, key, score in scores])
        for stage, scores in groupby(by_stage, key=lambda each: each[0])
    }
    places: dict[Key, list[StageScore]] = {key: [] for key in hits}
    for (stage, _), ranking in rankings.items():
        for rank, (key, score) in enumerate(ranking, start=1):
            places[key].append(StageScore(stage, score, rank))
    return [
        replace(hits[key], found=replace(hits[key].found, score=score, stages=tuple(places[key])))
        for key, score in _fused(rankings, mode, fusion)
    ]


def _fused(rankings: dict[tuple[str, str], Ranking[Key]], mode: Mode, fusion: Fusion) -> Ranking[Key]:
    if mode is not Mode.HYBRID and len(rankings) < 2:
        return next(iter(rankings.values()), [])
    match fusion:
        case Rrf(k, dense_weight, sparse_weight):
            weights = [dense_weight if stage == "dense" else sparse_weight for stage, _ in rankings]
            return fuse(list(rankings.values()), k=k, weights=weights)
        case Dbsf():
            return fuse_by_distribution(list(rankings.values()))
