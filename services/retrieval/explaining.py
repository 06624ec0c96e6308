"""How an answer came about, for whoever asks: what each stage took, what came out of it, and why some went missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.mesh.filters import Filter
from services.retrieval.chunks import Found, Mode, StageScore
from services.retrieval.collection import CollectionView
from services.retrieval.filterable import both
from services.retrieval.fusion import Dbsf, Fusion, Rrf
from services.retrieval.query import Plan, Query
from services.retrieval.ranking import Hit
from services.retrieval.sparse import encoder_for
from services.retrieval.stages import Degraded, Ran, Stages


@dataclass(frozen=True, slots=True)
class Searched:
    """A collection that was searched, and the revision of its index that the answer is of, at least; 0: not known."""

    collection: CollectionView
    revision: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """How an answer came about.

    Attributes:
        stages: In the order they ended.
        mode: The one that was used.
        filter: What the caller asked for, without what is added for the caller's rights.
    """

    stages: Sequence[Ran]
    searched: Sequence[Searched]
    mode: Mode
    filter: Filter


def explanation(
    query: Query, mode: Mode, views: Sequence[CollectionView], revisions: Mapping[str, int], stages: Stages
) -> Explanation:
    """What is told of an answer.

    Args:
        mode: The one that was used.
        revisions: By collection id, asked for before the indexes were.
    """
    ran = [each for each in stages.ran or () if each.stage != "revisions"]
    return Explanation(
        stages=_with_reasons(ran, stages.degraded, views),
        searched=[Searched(view, revisions.get(view.collection_id, 0)) for view in views],
        mode=mode,
        filter=both(query.filter, query.typed_filter),
    )


def fusion_explained(
    hits: Sequence[Hit],
    query: Query,
    plan: Plan,
    views: Sequence[CollectionView],
    found: Mapping[str, Found],
    to: Stages,
) -> Sequence[Hit]:
    """The hits with their place in the fusion, where there was one; notes what came out of the indexes and of it.

    Args:
        hits: All that the fusion gave, best first.
        found: By collection id; of those that answered.
    """
    answering = [(view, found[view.collection_id]) for view in views if view.collection_id in found]
    for view, each in answering:
        to.noted("store", len(each.hits), of=view.collection_id, detail=_bound(plan))
        for stage, candidates in each.by_stage.items():
            words = " ".join(encoder_for(view.language).stems(query.text)) if stage == "sparse" else ""
            to.noted(stage, candidates, of=view.collection_id, detail=words)
    rankings = {
        (stage, stage == "dense" and view.embedding_model) for view, each in answering for stage in each.by_stage
    }
    if len(rankings) < 2 and (len(views) == 1 or plan.mode is not Mode.HYBRID):
        return hits
    to.noted("fusion", len(hits) if len(views) > 1 else answering[0][1].candidates, detail=_spelled(plan.fusion))
    return [_placed(hit, rank) for rank, hit in enumerate(hits, start=1)]


def _with_reasons(ran: Sequence[Ran], degraded: Sequence[Degraded], views: Sequence[CollectionView]) -> list[Ran]:
    """The stages, with why some of them, or others, were left out."""
    models = {view.collection_id: view.embedding_model for view in views}
    told = list(ran)
    for each in degraded:
        of = (each.collection, models.get(each.collection))
        reason = f"left out: {each.reason}"
        places = [
            place for place, one in enumerate(told) if one.stage == each.stage and (not each.collection or one.of in of)
        ]
        for place in places:
            told[place] = replace(told[place], detail=reason)
        if not places:
            told.append(Ran(each.stage, each.collection, detail=reason))
    return told


def _placed(hit: Hit, rank: int) -> Hit:
    stages = (*hit.found.stages, StageScore("fusion", hit.found.score, rank))
    return replace(hit, found=replace(hit.found, stages=stages))


def _bound(plan: Plan) -> str:
    return "" if plan.min_similarity is None else f"similarity at least {plan.min_similarity:g}"


def _spelled(fusion: Fusion) -> str:
    match fusion:
        case Rrf(k, dense_weight, sparse_weight):
            return f"RRF, k {k}, dense weight {dense_weight:g}, sparse weight {sparse_weight:g}"
        case Dbsf():
            return "DBSF"
