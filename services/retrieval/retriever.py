"""Search: which collections, by which vectors, through which filter, refined into one ranking and cut into pages."""

from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from typing import Final

from services.mesh.consistency import written_at
from services.mesh.errors import (
    CollectionDisabled,
    CollectionNotFound,
    DomainError,
    IndexFailed,
    InvalidArgument,
)
from services.mesh.filters import Filter, all_of, negate
from services.mesh.identity import Caller
from services.retrieval import pages
from services.retrieval.additions import completed
from services.retrieval.chunks import Found, Mode, ScoredChunk, VectorQuery
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.explaining import Explanation, explanation, fusion_explained
from services.retrieval.faceting import Facet
from services.retrieval.freshness import Freshness
from services.retrieval.grouping import Group, groups_of, valued
from services.retrieval.masking import ALL, HitMask
from services.retrieval.pages import FrozenRanking, Place
from services.retrieval.ports import PassageReranker, QueryEmbedder, VectorStore
from services.retrieval.query import Plan, Query, planned
from services.retrieval.ranking import Hit, together
from services.retrieval.refining import deepened, refined
from services.retrieval.reranking import reranked
from services.retrieval.scaling import SparseScales
from services.retrieval.sparse import encoder_for
from services.retrieval.stages import UNABLE, Degraded, Stages
from services.retrieval.usage import Search, Usage

_OVER: Final = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """One page of hits, best first.

    Attributes:
        total: Hits in all pages; of grouped ones, groups.
        timings_s: Seconds by stage.
        mask: Fields of a hit to return.
        groups: Of the hits, which come group by group; empty where they are not grouped.
        facets: In the order they were asked for.
    """

    hits: Sequence[Hit]
    total: int
    next_page_token: str
    timings_s: Mapping[str, float]
    degraded: Sequence[Degraded]
    query_tokens: int
    candidates: int
    mask: HitMask = ALL
    groups: Sequence[Group] = ()
    facets: Sequence[Facet] = ()
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class _Vectors:
    """The query by model, little-endian float32, and the tokens embedded for it."""

    by_model: Mapping[str, bytes]
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Ranked:
    """All hits, best first, how many of them each group has, and the work done for them."""

    hits: Sequence[Hit]
    groups: Sequence[int]
    candidates: int
    query_tokens: int
    mode: Mode


class Retriever:
    """Finds passages for callers.

    Args:
        scales: Told which indexes are in use.
        freshness: Waited for by searches that follow a write.
        usage: Told how each search ended.
    """

    def __init__(
        self,
        store: VectorStore,
        embedder: QueryEmbedder,
        collections: CollectionsMirror,
        scales: SparseScales,
        freshness: Freshness,
        reranker: PassageReranker,
        usage: Usage,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._collections = collections
        self._scales = scales
        self._freshness = freshness
        self._reranker = reranker
        self._usage = usage

    def with_embedder(self, embedder: QueryEmbedder) -> "Retriever":
        """The same retriever, but for where vectors come from."""
        other = copy(self)
        other._embedder = embedder
        return other

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
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all, explain=query.explain)
        # The rough step of an answer in steps is no search of its own.
        with self._usage.search(who.tenant, counts=not query.rough) as search, stages.whole():
            return await self.answer(query, who, stages, search)

    async def answer(self, query: Query, who: Caller, stages: Stages, search: Search) -> Answer:
        """As `search`, as a part of a search that is under way; tells it what was found."""
        views, plan = await self.prepared(query, who, stages, search)
        answer = await self.run(query, plan, views, stages)
        search.total, search.degraded = answer.total, bool(answer.degraded)
        return answer

    async def prepared(
        self, query: Query, who: Caller, stages: Stages, search: Search
    ) -> tuple[list[CollectionView], Plan]:
        """The collections, which the caller may search and which show what must be seen, and how they are searched.

        Args:
            search: Told of which collections it is, as soon as that is known.

        Raises: as `search` does, for what is wrong with the query.
        """
        with stages.timed("authorize"):
            views = await stages.within("authorize", self.views(query.collection_ids, who))
        search.views = views
        # A token may lapse, and what a boost prefers may depend on the time: these are planned anew.
        lasting = not (query.page_token or query.boosts)
        plan = (
            query.lately.of((planned, who, *views), lambda: planned(query, views, who))
            if lasting
            else planned(query, views, who)
        )
        if query.consistency_token:
            with stages.timed("wait"):
                await stages.within("wait", self._seen(query.consistency_token, views, stages.budget_s("wait")))
        return views, plan

    async def run(self, query: Query, plan: Plan, views: Sequence[CollectionView], stages: Stages) -> Answer:
        """The answer to a query that is prepared."""
        revisions = await self._revisions(views, stages) if stages.ran is not None else {}
        if plan.resumed is None:
            ranked = await self._ranked(query, plan, views, stages)
            hits, total = ranked.hits[pages.hits_on(plan.page, ranked.groups)], len(ranked.groups or ranked.hits)
        else:
            stages.degraded.extend(plan.resumed.degraded)
            ranked = _Ranked([], (), 0, 0, plan.mode)
            total = len(plan.resumed.groups or plan.resumed.places)
            with stages.timed("store"):
                hits = await self._resumed(plan, plan.resumed, views, stages)
        of_ranking = list(stages.degraded)
        hits, facets = await completed(hits, query.text, plan, views, self._store, stages)
        following = plan.page.stop
        frozen = plan.resumed or _frozen(ranked, views, of_ranking) if following < total else None
        return Answer(
            hits=hits,
            total=total,
            next_page_token=pages.token(frozen, following, plan.binding) if frozen else "",
            timings_s=stages.timings_s,
            degraded=stages.degraded,
            query_tokens=ranked.query_tokens,
            candidates=ranked.candidates,
            mask=query.mask,
            groups=groups_of(hits, plan.group_by) if plan.group_by else (),
            facets=facets,
            explanation=None if stages.ran is None else explanation(query, ranked.mode, views, revisions, stages),
        )

    async def _revisions(self, views: Sequence[CollectionView], stages: Stages) -> dict[str, int]:
        """The revision of each index, by the collection's id, of those that can be told soon."""
        works = {view.collection_id: self._freshness.current(view.uid) for view in views}
        return (await stages.of_all("revisions", works))[0]

    async def _ranked(self, query: Query, plan: Plan, views: Sequence[CollectionView], stages: Stages) -> _Ranked:
        """The whole ranking, as long as top_k lets it be."""
        with stages.timed("embed"):
            plan, vectors = await self._embedded(query, plan, views, stages)
        with stages.timed("store"):
            hits, candidates = await self._fused(query, plan, views, vectors, stages)
            while (deeper := deepened(plan, hits, candidates)) is not None:
                try:
                    hits, candidates = await self._fused(query, deeper, views, vectors, stages)
                except UNABLE as error:
                    stages.left_out("group_by", error)
                    break
                plan = deeper
        if plan.rerank is not None:
            with stages.timed("rerank"):
                asked = query.rerank is not None
                hits = await reranked(hits, query.text, plan.rerank, self._reranker, stages, asked=asked)
        return _Ranked(*await refined(hits, plan, stages), candidates, vectors.tokens, plan.mode)

    async def _resumed(
        self, plan: Plan, ranking: FrozenRanking, views: Sequence[CollectionView], stages: Stages
    ) -> list[Hit]:
        """A page of a ranking made before, less what is gone or hidden from the caller since."""
        part = pages.hits_on(plan.page, ranking.groups)
        places = [place for place in ranking.places[part] if place.view < len(views)]
        keys = {view.collection_id: [p.key for p in places if views[p.view] is view] for view in views}
        works = {
            view.collection_id: self._store.fetch(view.uid, keys[view.collection_id], plan.filter, plan.left_out)
            for view in views
            if keys[view.collection_id]
        }
        # Of several collections a page may hold the hits of one alone, and the next page those of the others.
        chunks = await stages.of_collections("store", works, needed=len(views) == 1)
        for collection, each in chunks.items():
            stages.noted("store", len(each), of=collection, detail="as the page token ranks them")
        found = ((place, chunks.get(views[place.view].collection_id, {}).get(place.key)) for place in places)
        hits = [
            Hit(ScoredChunk(chunk, place.score, place.stages, place.measured), views[place.view])
            for place, chunk in found
            if chunk is not None
        ]
        return valued(hits, plan.group_by) if plan.group_by else hits

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

    async def views(self, collection_ids: Sequence[str], who: Caller) -> list[CollectionView]:
        """The collections, as they are to be searched for the caller.

        Raises:
            CollectionNotFound, CollectionDisabled: As search does.
        """
        views = [await self._collections.find(who.tenant, each) for each in collection_ids]
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
        made, failures = await stages.of_all(
            "embed", {model: self._embedder.embed(model, query.text) for model in models}
        )
        if failures:
            plan = _unembedded(plan, views, failures, stages)
        vectors = {model: each.vector for model, each in made.items()}
        return plan, _Vectors(vectors, sum(each.token_count for each in made.values()))

    async def _fused(
        self, query: Query, plan: Plan, views: Sequence[CollectionView], vectors: _Vectors, stages: Stages
    ) -> tuple[Sequence[Hit], int]:
        """The hits of all collections, best first, and how many candidates they were chosen of."""
        # A hit that its own collection ranks low may rank higher among all: the fusion sees other ranks there.
        over = len(views) > 1 and plan.mode is Mode.HYBRID
        limit = min(plan.depth, _OVER * plan.pool) if over else plan.pool
        works = {
            view.collection_id: self._found(view, _asked(view, query, plan, vectors, limit), stages, views)
            for view in views
            if plan.mode is not Mode.DENSE or view.embedding_model in vectors.by_model
        }
        found = await stages.of_collections("store", works)
        hits: Sequence[Hit]
        if len(views) == 1:
            hits = [Hit(each, views[0]) for each in found[views[0].collection_id].hits]
        else:
            answering = [view for view in views if view.collection_id in found]
            hits = together(answering, [found[view.collection_id] for view in answering], plan.mode, plan.fusion)
        if stages.ran is not None:
            hits = fusion_explained(hits, query, plan, views, found, stages)
        return hits[: plan.pool], sum(each.candidates for each in found.values())

    async def _found(
        self, view: CollectionView, asked: VectorQuery, stages: Stages, views: Sequence[CollectionView]
    ) -> Found:
        """What the index finds. Where it fails at a query of both kinds, what it finds by one of them."""
        try:
            return await self._store.search(view.uid, asked)
        except IndexFailed as error:
            halves = {"sparse": replace(asked, sparse=None), "dense": replace(asked, dense=None)}
            for missing, half in halves.items() if None not in (asked.dense, asked.sparse) else ():
                with suppress(IndexFailed):
                    found = await self._store.search(view.uid, half)
                    stages.left_out(missing, error, collection=view.collection_id if len(views) > 1 else "")
                    return found
            raise


def _asked(view: CollectionView, query: Query, plan: Plan, vectors: _Vectors, limit: int) -> VectorQuery:
    vector = vectors.by_model.get(view.embedding_model)
    bounded = plan.min_similarity is not None and vector is not None
    return VectorQuery(
        dense=None if plan.mode is Mode.SPARSE else vector,
        sparse=None if plan.mode is Mode.DENSE else encoder_for(view.language).query(query.text),
        filter=_filter(view, query, plan),
        limit=limit,
        depth=plan.depth,
        fusion=plan.fusion,
        reference=vector if bounded else None,
        min_similarity=plan.min_similarity if bounded else None,
        with_vectors=plan.mmr is not None,
        left_out=plan.left_out,
    )


def _unembedded(
    plan: Plan, views: Sequence[CollectionView], failures: Mapping[str, DomainError], stages: Stages
) -> Plan:
    """How a search goes on where models gave no vector: by words, or without the collections of these models.

    Raises:
        DomainError: It cannot, or all stages are required.
    """
    without = [view for view in views if view.embedding_model in failures]
    none_left = len(without) == len(views)
    if none_left and plan.mode is Mode.DENSE:
        raise failures[views[0].embedding_model]
    for view in without[:1] if none_left else without:
        error, collection = failures[view.embedding_model], "" if none_left else view.collection_id
        if plan.mode is not Mode.SPARSE:
            stages.left_out("embed", error, collection=collection)
        if plan.min_similarity is not None and plan.mode is not Mode.DENSE:
            stages.left_out("min_score", error, collection=collection)
    return replace(plan, mode=Mode.SPARSE, min_similarity=None) if none_left else plan


def _filter(view: CollectionView, query: Query, plan: Plan) -> Filter:
    if query.without is None or query.without[0] != view.uid:
        return plan.filter
    return all_of(plan.filter, negate(query.without[1]))


def _frozen(ranked: _Ranked, views: Sequence[CollectionView], degraded: Sequence[Degraded]) -> FrozenRanking:
    numbers = {view.uid: number for number, view in enumerate(views)}
    places = [
        Place(numbers[hit.collection.uid], hit.found.chunk.key, hit.found.score, hit.found.stages, hit.found.measured)
        for hit in ranked.hits
    ]
    return FrozenRanking(places, degraded, ranked.groups)
