"""The head of a ranking, ordered anew by a model that reads the query together with each passage."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from services.mesh.errors import FailedPrecondition, InvalidArgument, ModelNotFound
from services.retrieval.chunks import Rerank, StageScore
from services.retrieval.ports import PassageReranker
from services.retrieval.ranking import Hit
from services.retrieval.stages import UNABLE, Stages

# Bytes of a passage, as the contract bounds RerankRequest.documents; no model reads as much.
_MAX_BYTES: Final = 65_536


async def reranked(
    hits: Sequence[Hit], query: str, wanted: Rerank, reranker: PassageReranker, stages: Stages, *, asked: bool
) -> Sequence[Hit]:
    """The hits by the model's score, best first; those after `top_n` follow as they were. As they were, all of them,
    where the model cannot be had.

    Args:
        asked: The caller wants it, and not only the collection.

    Raises:
        InvalidArgument: The caller names a model that there is not.
        DomainError: The model cannot be had, and all stages are required.
    """
    head = hits[: wanted.top_n]
    if not head:
        return hits
    work = reranker.rerank(wanted.model, query, [_passage(hit) for hit in head])
    try:
        given = await stages.within("rerank", work)
    except (*UNABLE, FailedPrecondition) as error:
        if asked and isinstance(error, ModelNotFound):
            raise InvalidArgument.of("rerank.model", error.message) from None
        stages.left_out("rerank", error)
        return hits
    stages.noted("rerank", len(hits), of=given.model, detail=f"the first {len(head)}")
    return _ordered(hits, given.scores)


def _ordered(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    by_score = sorted(zip(hits, scores, strict=False), key=lambda each: -each[1])
    least = by_score[-1][1]
    return [
        *(
            _scored(hit, score, StageScore("rerank", score, rank))
            for rank, (hit, score) in enumerate(by_score, start=1)
        ),
        *(_scored(hit, least - place) for place, hit in enumerate(hits[len(scores) :], start=1)),
    ]


def _scored(hit: Hit, score: float, *stages: StageScore) -> Hit:
    return replace(hit, found=replace(hit.found, score=score, stages=(*hit.found.stages, *stages)))


def _passage(hit: Hit) -> str:
    """With title and headings, as the other stages read it: much of what a passage is about stands only there."""
    text = hit.found.chunk.searched_text
    return text if len(text) * 4 <= _MAX_BYTES else text.encode()[:_MAX_BYTES].decode(errors="ignore")
