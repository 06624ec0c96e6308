"""A retrieval process in a test: its own mirrors and cache, over a store and a counter that others share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ragweave.v1 import search_pb2 as pb
from services.mesh.identity import Caller
from services.retrieval.answering import Answering
from services.retrieval.cache import ResultCache
from services.retrieval.cache_keeping import CacheKeeper
from services.retrieval.chunks import Found, IndexId, VectorQuery
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.convert import query_from
from services.retrieval.convert_cache import body_of, query_read, response_from, sent_from, written_from
from services.retrieval.freshness import Freshness
from services.retrieval.indexer import Indexer
from services.retrieval.ports import QueryEmbedding, SharedResults
from services.retrieval.query import Query
from services.retrieval.query_log import QueryLog
from services.retrieval.retriever import Retriever
from services.retrieval.revisions import RevisionsMirror
from services.retrieval.scaling import SparseScales
from services.retrieval.usage import Usage
from services.retrieval.warming import CacheWarmer
from tests.retrieval_fakes import (
    FakeEmbedder,
    FakeQuestions,
    FakeRegistry,
    FakeReranker,
    FakeUsageSink,
    MemoryVectorStore,
    chunk,
    direction,
    vector,
    view,
)

ANN = Caller(tenant="acme", subject="ann", principals=frozenset({"user:ann", "group:staff"}))
BOB = Caller(tenant="acme", subject="bob", principals=frozenset({"user:bob"}))
ANONYMOUS = Caller(tenant="acme", subject="anonymous", anonymous=True)


class CountingStore(MemoryVectorStore):
    """Counts searches; where told, they wait at the gate before they read, and again before they answer."""

    def __init__(self) -> None:
        super().__init__()
        self.searches = 0
        self.before, self.after = asyncio.Event(), asyncio.Event()
        self.before.set()
        self.after.set()

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        self.searches += 1
        await self.before.wait()
        found = await super().search(index, query)
        await self.after.wait()
        return found


class CountingEmbedder(FakeEmbedder):
    """Lets others run before it answers, as a call does."""

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        await asyncio.sleep(0)
        return await super().embed(model, text)


class Replica:
    """One process. Its parts are named as in services/retrieval/__main__.py."""

    def __init__(
        self,
        store: MemoryVectorStore,
        counter: Any,
        *views: CollectionView,
        shared: SharedResults | None = None,
        usage: Usage | None = None,
        **cache: Any,
    ) -> None:
        self.store = store
        self.embedder = CountingEmbedder()
        self.registry = FakeRegistry(*views)
        self.collections = CollectionsMirror(self.registry)
        for each in views or (view(),):
            self.collections.apply(each)
        self.revisions = RevisionsMirror(counter, counter)
        self.scales = SparseScales(store, self.collections.language_of, self.revisions)
        self.sink = FakeUsageSink()
        self.usage = usage or Usage(self.sink)
        freshness = Freshness(self.revisions)
        self.retriever = Retriever(
            store, self.embedder, self.collections, self.scales, freshness, FakeReranker(), self.usage
        )
        self.cache = ResultCache(self.revisions, shared, **{"max_bytes": 2**20, "ttl_s": 60, **cache})
        self.questions = FakeQuestions()
        self.log = QueryLog(self.questions)
        self.answering = Answering(self.retriever, self.cache, self.log, self.usage, body_of, sent_from)
        self.keeper = CacheKeeper(self.cache, self.log, self.collections)
        self.warmer = CacheWarmer(self.answering, self.log, self.collections, query_read)
        self.indexer = Indexer(store, self.collections, self.revisions, self.scales)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Replica"]:
        """Follows the feed inside the block, and has heard of it when the block begins."""
        following = asyncio.create_task(self.revisions.run())
        era = self.revisions.era
        while self.revisions.era == era:
            await asyncio.sleep(0)
        try:
            yield self
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def found(
        self, query: Query | None = None, who: Caller = ANN, *, timeout_s: float | None = None, **fields: Any
    ) -> pb.SearchResponse:
        """The response to a query of these fields, about foxes in docs unless they say otherwise."""
        asked = query or Query(**{"collection": "docs", "text": "foxes", **fields})
        return response_from(await self.answering.search(asked, who, bytes, timeout_s=timeout_s), "")

    async def answered(self, who: Caller = ANN, **fields: Any) -> pb.SearchResponse:
        """The response to a request of these fields, about foxes in docs unless they say otherwise."""
        request = pb.SearchRequest(**{"collection": "docs", "query": "foxes", **fields})
        served = await self.answering.search(query_from(request), who, partial(written_from, request))
        return response_from(served, "")

    async def texts(self, query: Query | None = None, who: Caller = ANN, **fields: Any) -> list[str]:
        return [hit.text for hit in (await self.found(query, who, **fields)).hits]

    async def write(self, document: str, text: str = "foxes jump", *principals: str, index: str = "uid-docs") -> int:
        """A document of one chunk; returns the revision that shows it."""
        made = chunk(text, document=document, document_fields={"principals": principals})
        return await self.indexer.upsert(IndexId(index), [(made, vector(direction(text)))])
