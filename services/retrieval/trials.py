"""Searches that are made to be measured."""

from collections.abc import Sequence

from services.mesh.filters import all_of
from services.mesh.identity import Caller
from services.retrieval.collection import CollectionView
from services.retrieval.filterable import visible_to
from services.retrieval.ports import QueryEmbedder, VectorStore
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.similar import Example
from services.retrieval.stages import Stages
from services.retrieval.usage import Usage


class Trials:
    """Fulfils Searcher: searches as they are served, but past the result cache, and counted as nobody's use.

    Args:
        embedder: Makes the vectors: one that takes none from a cache, or the time it takes would not show.
    """

    def __init__(self, retriever: Retriever, embedder: QueryEmbedder, store: VectorStore, usage: Usage) -> None:
        self._retriever = retriever.with_embedder(embedder)
        self._store = store
        self._usage = usage

    async def search(self, query: Query, who: Caller, *, timeout_s: float | None = None) -> Answer:
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all)
        with self._usage.search(who.tenant, counts=False) as search:
            return await self._retriever.answer(query, who, stages, search)

    async def lacking(self, names: Sequence[str], collection_ids: Sequence[str], who: Caller) -> list[str]:
        views = await self._retriever.views(collection_ids, who)
        return [name for name in names if not await self._held(name, views, who)]

    async def _held(self, name: str, views: Sequence[CollectionView], who: Caller) -> bool:
        example = Example.named(name) if "/" in name else Example("", name)
        for view in views:
            if example.collection_id in ("", view.collection_id) and await self._store.vectors(
                view.uid, all_of(example.chosen, visible_to(who)), 1
            ):
                return True
        return False
