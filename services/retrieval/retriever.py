"""Search: which collections, by which vectors, through which filter, refined into one ranking and cut into pages."""

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from services.mesh.consistency import written_at
from services.mesh.errors import (
    CollectionDisabled,
    CollectionNotFound,
    DependencyUnavailable,
    FailedPrecondition,
    InvalidArgument,
    Violation,
)
from services.mesh.identity import Caller
from services.retrieval import pages
from services.retrieval.chunks import Found, Mode, ScoredChunk, VectorQuery
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.freshness import Freshness
from services.retrieval.pages import FrozenRanking, Place
from services.retrieval.ports import QueryEmbedder, VectorStore
from services.retrieval.query import Plan, Query, planned
from services.retrieval.ranking import Hit, together
from services.retrieval.scaling import SparseScales
from services.retrieval.sparse import encoder_for
from services.retrieval.stages import Degraded, Stages

_MAX_HIGHLIGHTS: Final = 1000
_OVER: Final = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of hits, best first.

    Attributes:
        total: Hits in all pages.
        timings_s: Seconds by stage.
    """

    hits: Sequence[Hit]
    total: int
    next_page_token: str
    timings_s: Mapping[str, float]
    degraded: Sequence[Degraded]
    query_tokens: int
    candidates: int


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The query by model, little-endian float32, and the tokens embedded for it."""

    by_model: Mapping[str, bytes]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Ranked:
    """All hits, best first, and the work done for them."""

    hits: Sequence[Hit]
    candidates: int
    query_tokens: int


class Retriever:
    """Finds passages for callers.

    Args:
        scales: Told which indexes are in use.
        freshness: Waited for by searches that follow a write.
    """

    def __init__(
        self,
        store: VectorStore,
        embedder: QueryEmbedder,
        collections: CollectionsMirror,
        scales: SparseScales,
        freshness: Freshness,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._collections = collections
        self._scales = scales
        self._freshness = freshness

    async def search(self, query: Query, who: Caller, *, timeout_s: float | None = None) -> Answer:
        """The passages that answer the query best, among those the caller may see.

        Args:
            timeout_s: What is left of the caller's time; a search that must see a write waits for it no longer.

        Raises:
            InvalidArgument, InvalidFilter, InvalidPageToken: A field of the query is wrong; named.
            CollectionNotFound: No such collection, or not for this caller.
            CollectionDisabled: It refuses searches.
            DeadlineExceeded: The write that the consistency_token stands for has not been made in time.
            DependencyUnavailable: The index does not answer; or another stage does not, and all were required.
        """
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all)
        with stages.timed("total"):
            with stages.timed("authorize"):
                views = await self._views(query, who)
            plan = planned(query, views, who)
            if query.consistency_token:
                with stages.timed("wait"):
                    await self._seen(query.consistency_token, views, stages.remaining_s())
            if plan.resumed is None:
                ranked = await self._ranked(query, plan, views, stages)
                hits, total = ranked.hits[plan.page], len(ranked.hits)
            else:
                stages.degraded.extend(plan.resumed.degraded)
                ranked = _Ranked([], 0, 0)
                with stages.timed("store"):
                    hits, total = await self._resumed(plan, plan.resumed, views), len(plan.resumed.places)
            if query.highlight:
                hits = _highlighted(hits, query, views)
        following = plan.page.stop
        frozen = plan.resumed or _frozen(ranked.hits, views, stages.degraded) if following < total else None
        return Answer(
            hits=hits,
            total=total,
            next_page_token=pages.token(frozen, following, plan.binding) if frozen else "",
            timings_s=stages.timings_s,
            degraded=stages.degraded,
            query_tokens=ranked.query_tokens,
            candidates=ranked.candidates,
        )

    async def _ranked(self, query: Query, plan: Plan, views: Sequence[CollectionView], stages: Stages) -> _Ranked:
        """The whole ranking, as long as top_k lets it be."""
        _check_features(query, stages)
        with stages.timed("embed"):
            plan, vectors = await self._embedded(query, plan, views, stages)
        with stages.timed("store"):
            hits, candidates = await self._fused(query, plan, views, vectors)
        return _Ranked(hits, candidates, vectors.tokens)

    async def _resumed(self, plan: Plan, ranking: FrozenRanking, views: Sequence[CollectionView]) -> list[Hit]:
        """A page of a ranking made before, less what is gone or hidden from the caller since."""
        places = ranking.places[plan.page]
        keys = [[place.key for place in places if place.view == number] for number in range(len(views))]
        chunks = await asyncio.gather(
            *(self._store.fetch(view.uid, wanted, plan.filter) for view, wanted in zip(views, keys, strict=True))
        )
        return [
            Hit(
                ScoredChunk(chunks[place.view][place.key], place.score, place.stages, place.measured), views[place.view]
            )
            for place in places
            if place.view < len(views) and place.key in chunks[place.view]
        ]

    async def _seen(self, token: str, views: Sequence[CollectionView], timeout_s: float | None) -> None:
        """Returns once the write that a token stands for shows.

        Raises:
            InvalidArgument: It is of none of the collections.
            DeadlineExceeded, DependencyUnavailable: As Freshness.reached does.
        """
        uid, revision = written_at(token)
        for view in views:
            if view.uid == uid:
                await self._freshness.reached(view.uid, revision, timeout_s)
                return
        raise InvalidArgument.of("consistency_token", "it is from a job on a collection that is not searched here")

    async def _views(self, query: Query, who: Caller) -> list[CollectionView]:
        views = [await self._collections.find(who.tenant, each) for each in query.collection_ids]
        for view in views:
            if who.anonymous and not view.public:
                # As if it were not there: what is private does not show by its refusal.
                raise CollectionNotFound(f"no collection {view.collection_id!r}", collection=view.collection_id)
            if view.disabled:
                raise CollectionDisabled(
                    f"collection {view.collection_id!r} is disabled", collection=view.collection_id
                )
            await self._scales.noticed(view.uid)
        return views

    async def _embedded(
        self, query: Query, plan: Plan, views: Sequence[CollectionView], stages: Stages
    ) -> tuple[Plan, _Vectors]:
        """The query's vectors, one a model; without the embedding service a search goes on by words, where it can."""
        if plan.mode is Mode.SPARSE and plan.min_similarity is None:
            return plan, _Vectors({})
        models = sorted({view.embedding_model for view in views})
        if query.vector:
            return plan, _Vectors(dict.fromkeys(models, array("f", query.vector).tobytes()))
        try:
            made = await asyncio.gather(*(self._embedder.embed(model, query.text) for model in models))
        except DependencyUnavailable as error:
            if plan.mode is Mode.DENSE:
                raise
            if plan.mode is Mode.HYBRID:
                stages.left_out("embed", error)
            if plan.min_similarity is not None:
                stages.left_out("min_score", error)
            return replace(plan, mode=Mode.SPARSE, min_similarity=None), _Vectors({})
        vectors = {model: each.vector for model, each in zip(models, made, strict=True)}
        return plan, _Vectors(vectors, sum(each.token_count for each in made))

    async def _fused(
        self, query: Query, plan: Plan, views: Sequence[CollectionView], vectors: _Vectors
    ) -> tuple[list[Hit], int]:
        """The hits of all collections, best first, and how many candidates they were chosen of."""
        if len(views) == 1:
            (view,) = views
            found = await self._found(view, query, plan, vectors, plan.top_k)
            return [Hit(each, view) for each in found.hits], found.candidates
        # A hit that its own collection ranks low may rank higher among all: the fusion sees other ranks there.
        limit = min(plan.depth, _OVER * plan.top_k) if plan.mode is Mode.HYBRID else plan.top_k
        each = await asyncio.gather(*(self._found(view, query, plan, vectors, limit) for view in views))
        hits = together(views, each, plan.mode, plan.fusion)[: plan.top_k]
        return hits, sum(found.candidates for found in each)

    async def _found(self, view: CollectionView, query: Query, plan: Plan, vectors: _Vectors, limit: int) -> Found:
        vector = vectors.by_model.get(view.embedding_model)
        return await self._store.search(
            view.uid,
            VectorQuery(
                dense=None if plan.mode is Mode.SPARSE else vector,
                sparse=None if plan.mode is Mode.DENSE else encoder_for(view.language).query(query.text),
                filter=plan.filter,
                limit=limit,
                depth=plan.depth,
                fusion=plan.fusion,
                reference=None if plan.min_similarity is None else vector,
                min_similarity=plan.min_similarity,
            ),
        )


def _check_features(query: Query, stages: Stages) -> None:
    """What would change the meaning of the answer, and is not there, is refused; a better order is left out."""
    unknown = sorted(query.features - {"rerank"})
    if unknown:
        violations = [Violation(field, "is not offered yet") for field in unknown]
        raise InvalidArgument(f"{unknown[0]}: is not offered yet", violations=violations)
    if query.features:
        stages.left_out("rerank", FailedPrecondition("no reranking model is configured"))


def _frozen(hits: Sequence[Hit], views: Sequence[CollectionView], degraded: Sequence[Degraded]) -> FrozenRanking:
    numbers = {view.uid: number for number, view in enumerate(views)}
    places = [
        Place(numbers[hit.collection.uid], hit.found.chunk.key, hit.found.score, hit.found.stages, hit.found.measured)
        for hit in hits
    ]
    return FrozenRanking(places, list(degraded))


def _highlighted(hits: Sequence[Hit], query: Query, views: Sequence[CollectionView]) -> list[Hit]:
    """The hits, with the places of the query's words in them."""
    terms = {view.language: frozenset(encoder_for(view.language).counts(query.text)) for view in views}
    return [replace(hit, highlights=_highlights(hit, terms[hit.collection.language])) for hit in hits]


def _highlights(hit: Hit, terms: frozenset[int]) -> tuple[tuple[int, int], ...]:
    words = encoder_for(hit.collection.language).terms(hit.found.chunk.text)
    return tuple((word.start, word.end) for word in words if word.index in terms)[:_MAX_HIGHLIGHTS]
