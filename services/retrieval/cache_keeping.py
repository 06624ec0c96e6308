"""What a tenant may know of its cached answers, and how it drops them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing, ListQuery, Page, paginate
from services.retrieval.cache import ResultCache, Tally
from services.retrieval.chunks import IndexId
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.query import Query
from services.retrieval.query_log import QueryLog
from services.retrieval.results import Entry

ENTRIES: Final = Listing(
    schema=Schema(
        {
            "id": Field(FieldType.STRING),
            "query": Field(FieldType.STRING),
            "collection": Field(FieldType.STRING),
            "mode": Field(FieldType.STRING),
            "create_time": Field(FieldType.TIMESTAMP),
            "size_bytes": Field(FieldType.NUMBER),
            "hits": Field(FieldType.NUMBER),
        }
    ),
    sortable=("id", "query", "create_time", "size_bytes", "hits"),
    key="id",
    default_order="create_time desc",
)


@dataclass(frozen=True, slots=True)
class Stats:
    """What the cache of this process did for a tenant or for one of its collections, and what it keeps.

    Attributes:
        since_s: When counting began, by time.time().
    """

    tally: Counter[Tally]
    entries: int
    size: int
    since_s: float

    @property
    def hits(self) -> int:
        return sum(self.tally[layer] for layer in (Tally.PROCESS, Tally.SHARED, Tally.IN_FLIGHT))

    @property
    def hit_rate(self) -> float:
        asked = self.hits + self.tally[Tally.MISS]
        return self.hits / asked if asked else 0.0


class Purged(NamedTuple):
    """How many answers were dropped in this process and of the shared, and how many questions of the log."""

    here: int
    shared: int
    questions: int


class CacheKeeper:
    """What CacheService does. A tenant learns of its own searches only."""

    def __init__(self, cache: ResultCache, log: QueryLog, collections: CollectionsMirror) -> None:
        self._cache = cache
        self._log = log
        self._collections = collections

    async def stats(self, tenant: str, collection: str = "") -> Stats:
        """Of all the tenant's searches, or of those of a collection, by name or bare id.

        Raises:
            InvalidArgument, CollectionNotFound: There is none of that name.
        """
        index = await index_named(self._collections, tenant, collection) if collection else None
        entries = [each for each in self._cache.entries(tenant) if index is None or index in each.asked.indexes]
        size = sum(each.size for each in entries)
        return Stats(self._cache.tally(tenant, index), len(entries), size, self._cache.since_s)

    def entries(self, tenant: str, query: ListQuery) -> Page[Entry]:
        """One page of the tenant's answers in this process; see ENTRIES."""
        return paginate(self._cache.entries(tenant), query, _fields)

    async def purge(self, tenant: str, collection: str = "") -> Purged:
        """Drops the tenant's answers and what is logged of questions, or those that a collection has part in.

        Raises:
            InvalidArgument, CollectionNotFound: There is none of that name.
            DependencyUnavailable: Redis does not answer; what was dropped stays dropped.
        """
        index = await index_named(self._collections, tenant, collection) if collection else None
        outdated = self._collections.of_tenant(tenant) if index is None else [index]
        answers = await self._cache.purge(tenant, index, outdated=outdated)
        return Purged(*answers, await self._log.drop(tenant, index))

    async def erase(self, tenant: str) -> int:
        """Drops all of a tenant whose indexes are gone; returns how many answers and questions there were.

        Raises:
            DependencyUnavailable: Redis does not answer.
        """
        self._cache.forget(tenant)
        return sum(await self._cache.purge(tenant)) + await self._log.drop(tenant)


async def index_named(collections: CollectionsMirror, tenant: str, collection: str) -> IndexId:
    """The index of a collection, by name or bare id.

    Raises:
        InvalidArgument, CollectionNotFound: There is none of that name.
    """
    (collection_id,) = Query(collection=collection).collection_ids
    return (await collections.find(tenant, collection_id)).uid


def _fields(entry: Entry) -> Mapping[str, Any]:
    return {
        "id": entry.asked.key.hex(),
        "query": entry.asked.text,
        "collection": list(entry.asked.collection_ids),
        "mode": entry.asked.mode.name,
        "create_time": datetime.fromtimestamp(entry.created_s, UTC),
        "size_bytes": entry.size,
        "hits": entry.hits,
    }
