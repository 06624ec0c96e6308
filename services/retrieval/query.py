"""A search as asked for, and as it is run: every field checked, every default filled in."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from services.mesh.errors import InvalidArgument, Violation
from services.mesh.filters import EVERYTHING, Filter, all_of, unparse
from services.mesh.identity import Caller
from services.retrieval import boosts, faceting, grouping, pages
from services.retrieval.boosts import Boost, BoostAsked
from services.retrieval.chunks import IndexId, Mode, Part, Rerank
from services.retrieval.collection import NO_DEFAULTS, CollectionView, SearchDefaults
from services.retrieval.diversity import Mmr
from services.retrieval.faceting import FacetAsked, Faceting
from services.retrieval.filterable import both, by_document_id, visible_to
from services.retrieval.fusion import DEFAULT_FUSION, Fusion
from services.retrieval.grouping import GroupBy, Grouping
from services.retrieval.lately import Lately
from services.retrieval.masking import ALL, HitMask
from services.retrieval.neighbors import MAX_PASSAGES

DEFAULT_TOP_K: Final = 10
MAX_TOP_K: Final = 200
MAX_CANDIDATES: Final = 1000
DEFAULT_RERANKED: Final = 50

# Candidates of each stage: a chunk that both stages rank low may still lead the fusion.
_LEAST_DEPTH: Final = 200
_DEPTH_FACTOR: Final = 4
_COLLECTION_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class CacheControl(Enum):
    """How a search uses the cache of answers."""

    DEFAULT = auto()
    BYPASS = auto()
    REFRESH = auto()


@dataclass(frozen=True, slots=True)
class Query:
    """A search as asked for; 0, "", None and empty mean unset.

    Attributes:
        vector: By the collection's model, instead of one made from text.
        collection: Name or bare id.
        collections: The same, several, instead of `collection`.
        typed_filter: Must hold besides `filter`.
        page: From 1, of page_size hits; with a page_token, of the ranking that it is of.
        candidates: What each stage hands to the fusion.
        min_score: Least cosine similarity of a hit and the query.
        without: Chunks of one index that are no hits.
        rough: Goes without reranking, whatever the collection wants: for an answer that is to come at once.
        mmr: Prefers hits that differ.
        group_by: Hits of one value together; top_k, page_size and page then count groups.
        facets: Fields whose values are counted.
        neighbors: Adjacent chunks to return on each side of a hit.
        mask: Fields of a hit to return.
        require_all: Fails rather than answering from fewer stages.
        explain: The answer tells how it came about.
        lately: What was made of it lives as long as the query does.
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
    page: int = 0
    mode: Mode | None = None
    fusion: Fusion | None = None
    candidates: int = 0
    min_score: float = 0.0
    rerank: Rerank | None = None
    rough: bool = False
    highlight: bool = False
    without: tuple[IndexId, Filter] | None = None
    boosts: Sequence[BoostAsked] = ()
    mmr: Mmr | None = None
    group_by: GroupBy | None = None
    facets: Sequence[FacetAsked] = ()
    neighbors: int = 0
    mask: HitMask = ALL
    require_all: bool = False
    explain: bool = False
    consistency_token: str = ""
    cache_control: CacheControl = CacheControl.DEFAULT
    lately: Lately = field(default_factory=Lately, init=False, compare=False, repr=False)

    @property
    def named_collections(self) -> list[str]:
        """The ids of `collections`, each once; none where the field is empty."""
        return _ids("collections", self.collections)

    @property
    def collection_ids(self) -> list[str]:
        """The ids in `collections/{id}` or the bare ids, each once.

        Raises:
            InvalidArgument: None, both fields, or no id.
        """
        if self.collection and self.collections:
            raise InvalidArgument.of("collections", "give collection or collections, not both")
        if not self.collection and not self.collections:
            raise InvalidArgument.of("collection", "name the collection to search")
        return _ids("collection", [self.collection]) if self.collection else self.named_collections


@dataclass(frozen=True, slots=True)
class Plan:
    """A query with every default filled in.

    Attributes:
        depth: Candidates each stage hands to the fusion.
        pool: Hits of the fusion that later stages choose from; top_k where none is asked for.
        min_similarity: None keeps all.
        rerank: None leaves the hits in the order of the fusion.
        filter: What the caller asked for and may see.
        visible: What the caller may see.
        page: Which hits of the ranking to return.
        resumed: The ranking that the page is of; None where there is none yet.
        binding: The same for searches that rank the same, whichever page they ask for.
        left_out: Parts of chunks that nothing asked for is made of.
    """

    mode: Mode
    fusion: Fusion
    top_k: int
    depth: int
    pool: int
    min_similarity: float | None
    rerank: Rerank | None
    filter: Filter
    visible: Filter
    page: slice
    resumed: pages.FrozenRanking | None
    binding: str
    boosts: tuple[Boost, ...] = ()
    mmr: Mmr | None = None
    group_by: Grouping | None = None
    facets: tuple[Faceting, ...] = ()
    neighbors: int = 0
    highlight: bool = False
    left_out: tuple[Part, ...] = ()


def planned(query: Query, views: Sequence[CollectionView], who: Caller) -> Plan:
    """How the query is run over the collections for the caller.

    Raises:
        InvalidArgument, InvalidFilter, InvalidPageToken: A field of the query is wrong; named.
    """
    defaults = views[0].defaults if len(views) == 1 else NO_DEFAULTS
    mode = query.mode or (Mode.DENSE if query.vector and not query.text.strip() else defaults.mode) or Mode.HYBRID
    if not query.text.strip() and (mode is not Mode.DENSE or not query.vector):
        needed = "must not be empty" if query.mode is None else f"must not be empty in mode {mode.name}"
        raise InvalidArgument.of("query", needed if mode is not Mode.DENSE else "give query or vector")
    if query.vector:
        _check_vector(query.vector, views)
    top_k = _bounded("top_k", query.top_k or defaults.top_k or DEFAULT_TOP_K, MAX_TOP_K)
    depth = _bounded("candidates", query.candidates or max(_LEAST_DEPTH, _DEPTH_FACTOR * top_k), MAX_CANDIDATES)
    if query.page_size < 0:
        raise InvalidArgument.of("page_size", f"must not be negative, found {query.page_size}")
    if query.page < 0:
        raise InvalidArgument.of("page", f"counts from 1, found {query.page}")
    chosen = both(query.filter, query.typed_filter)
    fusion = query.fusion or defaults.fusion or DEFAULT_FUSION
    min_similarity = query.min_score or defaults.min_score or None
    if min_similarity is not None and not -1 <= min_similarity <= 1:
        raise InvalidArgument.of("min_score", f"is a cosine similarity, from -1 to 1, found {min_similarity:g}")
    rerank = _rerank(query, defaults)
    pool = max(top_k, rerank.top_n) if rerank else top_k
    asked = (query.text, list(query.vector), [view.uid for view in views], unparse(chosen))
    without = (query.without[0], unparse(query.without[1])) if query.without else ()
    refined = (repr(rerank), repr(query.boosts), repr(query.mmr), repr(query.group_by))
    binding = _digest(*asked, without, top_k, depth, mode, repr(fusion), min_similarity, refined)
    page_size = min(query.page_size or top_k, top_k)
    resumed, offset = pages.read(query.page_token, binding) if query.page_token else (None, 0)
    if query.page:
        offset = (query.page - 1) * page_size
    visible = visible_to(who)
    return Plan(
        mode=mode,
        fusion=fusion,
        top_k=top_k,
        depth=max(depth, pool),
        pool=max(depth, pool) if query.boosts or query.mmr or query.group_by else pool,
        min_similarity=min_similarity,
        rerank=rerank,
        filter=all_of(by_document_id(chosen), visible),
        visible=visible,
        page=slice(offset, offset + page_size),
        resumed=resumed,
        binding=binding,
        boosts=boosts.resolved(query.boosts) if query.boosts else (),
        mmr=query.mmr,
        group_by=grouping.resolved(query.group_by, top_k) if query.group_by else None,
        facets=faceting.resolved(query.facets) if query.facets else (),
        neighbors=_neighbors(query, page_size),
        highlight=query.highlight and "highlights" in query.mask,
        left_out=_left_out(query, rerank) if query.mask.left_out else (),
    )


def _ids(field: str, names: Sequence[str]) -> list[str]:
    ids = dict.fromkeys(name.removeprefix("collections/") for name in names)
    if not all(_COLLECTION_ID.fullmatch(each) for each in ids):
        found = f"found {', '.join(names)!r:.80}"
        raise InvalidArgument.of(field, f"takes collections/{{collection}} or the bare id, {found}")
    return list(ids)


def _rerank(query: Query, defaults: SearchDefaults) -> Rerank | None:
    """What is asked for, else the collection's default where the query has words to rerank by."""
    if query.rough:
        return None
    if query.text.strip():
        wanted = query.rerank or defaults.rerank
        return wanted and replace(wanted, top_n=_bounded("rerank.top_n", wanted.top_n or DEFAULT_RERANKED, MAX_TOP_K))
    if query.rerank is not None:
        raise InvalidArgument.of("rerank", "needs the query in words")
    return None


def _neighbors(query: Query, page_size: int) -> int:
    """Neighbors to find on each side of a hit: none where the mask leaves them out.

    Raises:
        InvalidArgument: Too many for one answer.
    """
    if not query.neighbors or ("neighbors" not in query.mask and "stitched_text" not in query.mask):
        return 0
    hits = page_size * (query.group_by.size if query.group_by else 1)
    if hits * (2 * query.neighbors + 1) > MAX_PASSAGES:
        found = f"{query.neighbors} on each side of {hits} hits make more than {MAX_PASSAGES} passages in one answer"
        violations = [Violation(field, found) for field in ("neighbors", "page_size")]
        raise InvalidArgument(f"neighbors: {found}", violations=violations)
    return query.neighbors


def _left_out(query: Query, rerank: Rerank | None) -> tuple[Part, ...]:
    mask, by = query.mask, query.group_by
    is_read = {
        Part.TEXT: (
            rerank is not None
            or "text" in mask
            or (query.highlight and "highlights" in mask)
            or (query.neighbors > 0 and "stitched_text" in mask)
        ),
        Part.METADATA: bool(query.boosts) or "metadata" in mask or (by is not None and by.field != "document"),
    }
    return tuple(part for part, read in is_read.items() if not read)


def _bounded(field: str, value: int, most: int) -> int:
    if not 0 < value <= most:
        raise InvalidArgument.of(field, f"must be from 1 to {most}, found {value}")
    return value


def _check_vector(vector: Sequence[float], views: Sequence[CollectionView]) -> None:
    for view in views:
        if len(vector) != view.dimension:
            wanted = f"collection {view.collection_id!r} takes {view.dimension} values"
            raise InvalidArgument.of("vector", f"{wanted}, found {len(vector)}")
    if not all(map(math.isfinite, vector)):
        raise InvalidArgument.of("vector", "has a value that is not finite")


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
