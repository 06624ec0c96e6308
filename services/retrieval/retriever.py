"""Search: which collections, by which vectors, through which filter, fused into one ranking and cut into pages."""

import asyncio
import base64
import hashlib
import json
import math
import re
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from services.mesh.consistency import written_at
from services.mesh.errors import (
    CollectionDisabled,
    CollectionNotFound,
    DependencyUnavailable,
    FailedPrecondition,
    InvalidArgument,
    InvalidPageToken,
    Violation,
)
from services.mesh.filters import EVERYTHING, Filter, all_of, parse, unparse
from services.mesh.identity import Caller
from services.retrieval.chunks import Found, Mode, ScoredChunk, VectorQuery
from services.retrieval.collection import NO_DEFAULTS, CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.filterable import SCHEMA, by_document_id, visible_to
from services.retrieval.freshness import Freshness
from services.retrieval.fusion import DEFAULT_FUSION, Fusion, fuse
from services.retrieval.ports import QueryEmbedder, QueryEmbedding, VectorStore
from services.retrieval.scaling import SparseScales
from services.retrieval.sparse import encoder_for

DEFAULT_TOP_K: Final = 10
MAX_TOP_K: Final = 200

# Candidates of each stage: a chunk that both stages rank low may still lead the fusion.
_LEAST_DEPTH: Final = 200
_DEPTH_FACTOR: Final = 4
_MAX_HIGHLIGHTS: Final = 1000
_TOKEN_VERSION: Final = 1
_COLLECTION_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Query:
    """A search as asked for; 0, "", None and empty mean unset.

    Attributes:
        vector: By the collection's model, instead of one made from text.
        collection: Name or bare id.
        collections: The same, several, instead of `collection`.
        typed_filter: Must hold besides `filter`.
        features: Names of request fields that ask for more than ranking: "rerank", "mmr", ...
        require_all: Fails rather than answering from fewer stages.
    """

    text: str = ""
    vector: Sequence[float] = ()
    collection: str = ""
    collections: Sequence[str] = ()
    filter: str = ""
    typed_filter: Filter = EVERYTHING
    top_k: int = 0
    page_size: int = 0
    page_token: str = ""
    mode: Mode | None = None
    fusion: Fusion | None = None
    min_score: float = 0.0
    highlight: bool = False
    features: frozenset[str] = frozenset()
    require_all: bool = False
    consistency_token: str = ""


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found, where, and which of its characters are words of the query: (start, end) in code points."""

    found: ScoredChunk
    collection: CollectionView
    highlights: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Degraded:
    """A stage that was left out, and why."""

    stage: str
    reason: str


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
class _Plan:
    """A query with every default filled in."""

    mode: Mode
    fusion: Fusion
    top_k: int
    min_score: float | None
    filter: Filter
    offset: int
    page_size: int
    binding: str


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
        timings_s: dict[str, float] = {}
        with _timed(timings_s, "total"):
            with _timed(timings_s, "authorize"):
                views = await self._views(query, who)
            plan = _plan(query, views, who)
            if query.consistency_token:
                with _timed(timings_s, "wait"):
                    await self._seen(query.consistency_token, views, timeout_s)
            degraded = _degraded(query)
            with _timed(timings_s, "embed"):
                plan, vectors, query_tokens = await self._embedded(query, plan, views, degraded)
            with _timed(timings_s, "store"):
                found = await asyncio.gather(
                    *(self._found(view, plan, query, vectors, len(views) == 1) for view in views)
                )
            hits, total = _merged(views, found, plan)
            terms = {view.uid: _terms(query, view) for view in views}
            page = [replace(hit, highlights=_highlights(hit, terms[hit.collection.uid])) for hit in hits]
        more = plan.offset + plan.page_size < total
        return Answer(
            hits=page,
            total=total,
            next_page_token=_token(plan.offset + plan.page_size, plan.binding) if more else "",
            timings_s=timings_s,
            degraded=degraded,
            query_tokens=query_tokens,
            candidates=sum(each.candidates for each in found),
        )

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
        views = [await self._collections.find(who.tenant, each) for each in _collection_ids(query)]
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
        self, query: Query, plan: _Plan, views: Sequence[CollectionView], degraded: list[Degraded]
    ) -> tuple[_Plan, Mapping[str, bytes], int]:
        """Vectors by model, and tokens embedded; without the embedding service a hybrid search goes on by words."""
        if plan.mode is Mode.SPARSE:
            return plan, {}, 0
        models = {view.embedding_model for view in views}
        if query.vector:
            _check_vector(query.vector, views)
            return plan, dict.fromkeys(models, array("f", query.vector).tobytes()), 0
        try:
            made = await asyncio.gather(*(self._embedder.embed(model, query.text) for model in sorted(models)))
        except DependencyUnavailable as error:
            if plan.mode is Mode.DENSE or query.require_all:
                raise
            degraded.append(Degraded("embed", error.message))
            return replace(plan, mode=Mode.SPARSE), {}, 0
        return plan, _by_model(models, made), sum(each.token_count for each in made)

    async def _found(
        self, view: CollectionView, plan: _Plan, query: Query, vectors: Mapping[str, bytes], alone: bool
    ) -> Found:
        return await self._store.search(
            view.uid,
            VectorQuery(
                dense=vectors.get(view.embedding_model),
                sparse=None if plan.mode is Mode.DENSE else encoder_for(view.language).query(query.text),
                filter=plan.filter,
                limit=plan.top_k,
                # Several collections are cut into pages once they are merged.
                offset=plan.offset if alone else 0,
                page_size=plan.page_size if alone else plan.top_k,
                depth=max(_LEAST_DEPTH, _DEPTH_FACTOR * plan.top_k),
                fusion=plan.fusion,
                min_score=plan.min_score,
            ),
        )


def _plan(query: Query, views: Sequence[CollectionView], who: Caller) -> _Plan:
    defaults = views[0].defaults if len(views) == 1 else NO_DEFAULTS
    mode = query.mode or (Mode.DENSE if query.vector and not query.text.strip() else defaults.mode) or Mode.HYBRID
    if not query.text.strip() and (mode is not Mode.DENSE or not query.vector):
        needed = "must not be empty" if query.mode is None else f"must not be empty in mode {mode.name}"
        raise InvalidArgument.of("query", needed if mode is not Mode.DENSE else "give query or vector")
    top_k = query.top_k or defaults.top_k or DEFAULT_TOP_K
    if not 0 < top_k <= MAX_TOP_K:
        raise InvalidArgument.of("top_k", f"must be from 1 to {MAX_TOP_K}, found {top_k}")
    if query.page_size < 0:
        raise InvalidArgument.of("page_size", f"must not be negative, found {query.page_size}")
    chosen = all_of(parse(query.filter, SCHEMA), query.typed_filter)
    fusion = query.fusion or defaults.fusion or DEFAULT_FUSION
    min_score = query.min_score or defaults.min_score or None
    asked = (query.text, list(query.vector), [view.uid for view in views], unparse(chosen))
    binding = _digest(*asked, top_k, mode, repr(fusion), min_score)
    return _Plan(
        mode=mode,
        fusion=fusion,
        top_k=top_k,
        min_score=min_score,
        filter=all_of(by_document_id(chosen), visible_to(who)),
        offset=_offset(query.page_token, binding) if query.page_token else 0,
        page_size=min(query.page_size or top_k, top_k),
        binding=binding,
    )


def _degraded(query: Query) -> list[Degraded]:
    """The stages asked for that there are none of; what would change the meaning of the answer is refused."""
    unknown = sorted(query.features - {"rerank"})
    if unknown:
        violations = [Violation(field, "is not offered yet") for field in unknown]
        raise InvalidArgument(f"{unknown[0]}: is not offered yet", violations=violations)
    if "rerank" in query.features and query.require_all:
        raise FailedPrecondition("rerank: no reranking model is configured")
    return [Degraded("rerank", "no reranking model is configured")] if query.features else []


def _merged(views: Sequence[CollectionView], found: Sequence[Found], plan: _Plan) -> tuple[list[Hit], int]:
    """The hits of one page, and how many there are in all; several collections are fused by rank."""
    if len(views) == 1:
        return [Hit(hit, views[0]) for hit in found[0].hits], found[0].total
    hits = {
        (view.uid, hit.chunk.document.document_id, hit.chunk.chunk_id): Hit(hit, view)
        for view, each in zip(views, found, strict=True)
        for hit in each.hits
    }
    ranked = fuse([[(key, 0.0) for key in hits if key[0] == view.uid] for view in views])[: plan.top_k]
    page = ranked[plan.offset : plan.offset + plan.page_size]
    return [replace(hits[key], found=replace(hits[key].found, score=score)) for key, score in page], len(ranked)


def _by_model(models: set[str], made: Sequence[QueryEmbedding]) -> dict[str, bytes]:
    return {model: embedding.vector for model, embedding in zip(sorted(models), made, strict=True)}


def _check_vector(vector: Sequence[float], views: Sequence[CollectionView]) -> None:
    for view in views:
        if len(vector) != view.dimension:
            wanted = f"collection {view.collection_id!r} takes {view.dimension} values"
            raise InvalidArgument.of("vector", f"{wanted}, found {len(vector)}")
    if not all(map(math.isfinite, vector)):
        raise InvalidArgument.of("vector", "has a value that is not finite")


def _collection_ids(query: Query) -> list[str]:
    """The ids in `collections/{id}` or the bare ids, each once."""
    if query.collection and query.collections:
        raise InvalidArgument.of("collections", "give collection or collections, not both")
    if not query.collection and not query.collections:
        raise InvalidArgument.of("collection", "name the collection to search")
    field = "collection" if query.collection else "collections"
    names = [query.collection] if query.collection else query.collections
    ids = dict.fromkeys(name.removeprefix("collections/") for name in names)
    if not all(_COLLECTION_ID.fullmatch(each) for each in ids):
        found = f"found {', '.join(names)!r:.80}"
        raise InvalidArgument.of(field, f"takes collections/{{collection}} or the bare id, {found}")
    return list(ids)


def _terms(query: Query, view: CollectionView) -> frozenset[int]:
    return frozenset(encoder_for(view.language).counts(query.text)) if query.highlight else frozenset()


def _highlights(hit: Hit, terms: frozenset[int]) -> tuple[tuple[int, int], ...]:
    if not terms:
        return ()
    words = encoder_for(hit.collection.language).terms(hit.found.chunk.text)
    return tuple((word.start, word.end) for word in words if word.index in terms)[:_MAX_HIGHLIGHTS]


def _token(offset: int, binding: str) -> str:
    content = json.dumps([_TOKEN_VERSION, binding, offset], separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).rstrip(b"=").decode()


def _offset(token: str, binding: str) -> int:
    try:
        content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
        version, bound, offset = content
        if version != _TOKEN_VERSION or type(offset) is not int or not 0 < offset < MAX_TOP_K:
            raise ValueError("not a token of this version")
    except (ValueError, TypeError, RecursionError):
        raise _refused("not a token that this method returned") from None
    if bound != binding:
        raise _refused("belongs to another search; start again without it")
    return int(offset)


def _refused(description: str) -> InvalidPageToken:
    return InvalidPageToken(f"page_token: {description}", violations=[Violation("page_token", description)])


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@contextmanager
def _timed(timings_s: dict[str, float], stage: str) -> Iterator[None]:
    started_s = time.perf_counter()
    try:
        yield
    finally:
        timings_s[stage] = time.perf_counter() - started_s
