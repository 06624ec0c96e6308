"""Answers as they are kept: what they answer, of which revisions they are, and the near ones of this process."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Final

from services.mesh.identity import Caller
from services.retrieval.chunks import IndexId, Mode
from services.retrieval.collection import CollectionView
from services.retrieval.query import Plan, Query

# What an entry costs beside its bytes: the objects that hold it (CPython 3.11, rounded up).
_OVERHEAD: Final = 1024
# An answer larger than this share of the cache would drive too many others out.
_LARGEST_SHARE: Final = 16

# In the plan, with their defaults filled in; pages that a token continues are not kept.
_PLANNED: Final = {
    "collection",
    "collections",
    "filter",
    "typed_filter",
    "top_k",
    "page_size",
    "page_token",
    "page",
    "mode",
    "fusion",
    "candidates",
    "min_score",
    "rerank",
    "rough",
}
OF_NO_ANSWER: Final = ("consistency_token", "cache_control", "require_all")
"""Fields that tell how to come by the answer, not which: one that is not whole is not kept."""

# Whatever else a query may ever ask for tells answers apart.
_AS_ASKED: Final = tuple(sorted({field.name for field in fields(Query) if field.compare} - _PLANNED - {*OF_NO_ANSWER}))


@dataclass(frozen=True, slots=True)
class Asked:
    """A search, as far as its answer is concerned.

    Attributes:
        key: 32 bytes; equal for searches that have the same answer at the same revisions, and for no others.
        indexes: Those searched, in order.
        collection_ids: Theirs.
    """

    key: bytes
    tenant: str
    indexes: tuple[IndexId, ...]
    collection_ids: tuple[str, ...]
    text: str
    mode: Mode


def asked(query: Query, plan: Plan, views: Sequence[CollectionView], who: Caller) -> Asked:
    """What is asked: the plan rather than the request, so that what reads the same is the same; and by whom."""
    of = [(view.uid, view.collection_id, view.embedding_model, view.language) for view in views]
    more = [getattr(query, name) for name in _AS_ASKED]
    content = repr((who.tenant, sorted(who.principals), of, plan, more))
    return Asked(
        key=hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=32).digest(),
        tenant=who.tenant,
        indexes=tuple(view.uid for view in views),
        collection_ids=tuple(view.collection_id for view in views),
        text=query.text,
        mode=plan.mode,
    )


@dataclass(slots=True)
class Entry:
    """An answer that is kept.

    Attributes:
        revisions: Of each index, known before the index was read.
        body: The answer as it is sent.
        created_s: When it was made, by time.time().
        hits: How often it was given again, by this process.
    """

    asked: Asked
    revisions: tuple[int, ...]
    body: bytes
    created_s: float
    hits: int = 0

    @property
    def size(self) -> int:
        """Bytes it takes in this process."""
        return len(self.body) + 4 * len(self.asked.text) + _OVERHEAD

    @property
    def age_s(self) -> float:
        return max(0.0, time.time() - self.created_s)

    def serves(self, revisions: Sequence[int], ttl_s: float) -> bool:
        """Whether it answers at these revisions, and is young enough."""
        return self.revisions == revisions and self.age_s <= ttl_s


class NearResults:
    """The most recently used answers, bounded in bytes and in age.

    Args:
        evicted: Told which make room for others.
    """

    def __init__(self, max_bytes: int, ttl_s: float, evicted: Callable[[Asked], None] = lambda asked: None) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._evicted = evicted
        self._bytes = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._of: dict[IndexId, set[bytes]] = {}

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return self._bytes

    def get(self, key: bytes, revisions: Sequence[int]) -> Entry | None:
        """The entry, unless it is too old, or of other revisions; one that is has no use any more."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if not entry.serves(revisions, self._ttl_s):
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, entry: Entry) -> None:
        key, size = entry.asked.key, entry.size
        if key in self._entries:
            self._drop(key)
        if size > self._max_bytes // _LARGEST_SHARE:
            return
        self._entries[key] = entry
        self._bytes += size
        for index in entry.asked.indexes:
            self._of.setdefault(index, set()).add(key)
        while self._bytes > self._max_bytes:
            self._evicted(self._drop(next(iter(self._entries))).asked)

    def entries(self) -> Iterator[Entry]:
        """All of them, least recently used first."""
        return iter(self._entries.values())

    def drop(self, tenant: str, index: IndexId | None) -> int:
        """Drops the tenant's entries, or those of them that an index has part in; returns how many."""
        keys = self._entries if index is None else self._of.get(index, ())
        gone = [key for key in keys if self._entries[key].asked.tenant == tenant]
        for key in gone:
            self._drop(key)
        return len(gone)

    def outdate(self, index: IndexId, revision: int) -> None:
        """Drops the entries of older revisions of the index: nobody will ask for them."""
        for key in tuple(self._of.get(index, ())):
            entry = self._entries[key]
            if entry.revisions[entry.asked.indexes.index(index)] < revision:
                self._drop(key)

    def clear(self) -> None:
        self._entries.clear()
        self._of.clear()
        self._bytes = 0

    def _drop(self, key: bytes) -> Entry:
        entry = self._entries.pop(key)
        self._bytes -= entry.size
        for index in set(entry.asked.indexes):
            keys = self._of[index]
            keys.discard(key)
            if not keys:
                del self._of[index]
        return entry
