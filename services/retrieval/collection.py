"""A collection as retrieval sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from services.retrieval.chunks import IndexId, Mode, Rerank
from services.retrieval.fusion import Fusion


@dataclass(frozen=True, slots=True)
class SearchDefaults:
    """What searches of a collection use for what they leave unset; 0 and None leave it to the service."""

    top_k: int = 0
    mode: Mode | None = None
    fusion: Fusion | None = None
    min_score: float = 0.0
    rerank: Rerank | None = None


NO_DEFAULTS: Final = SearchDefaults()


@dataclass(frozen=True, slots=True)
class CollectionView:
    """What retrieval needs to know of a collection.

    Attributes:
        uid: Names its index.
        public: Callers without a token may search it.
        sequence: Counts the registry's changes; a view with a lower one is older.
    """

    tenant: str
    collection_id: str
    uid: IndexId
    embedding_model: str
    language: str
    dimension: int
    public: bool = False
    disabled: bool = False
    deleted: bool = False
    defaults: SearchDefaults = NO_DEFAULTS
    sequence: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """Collections as they are or have become; `complete` once every one has been sent."""

    collections: Sequence[CollectionView]
    complete: bool = False
