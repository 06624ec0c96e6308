"""Searches that run together, with one pass of embedding for all."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from services.mesh.errors import DomainError
from services.mesh.identity import Caller
from services.retrieval.chunks import Mode
from services.retrieval.ports import QueryEmbedder, QueryEmbedding
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.stages import Stages


class BatchSearcher:
    """Runs searches together."""

    def __init__(self, retriever: Retriever, embedder: QueryEmbedder) -> None:
        self._retriever = retriever
        self._embedder = embedder

    async def search(
        self, queries: Sequence[Query | DomainError], who: Caller, *, timeout_s: float | None = None
    ) -> list[Answer | DomainError]:
        """What becomes of each query: its answer, or why there is none. One that fails leaves the others as they are.

        Args:
            queries: As Retriever.search takes them, or why one is none.
        """
        asked = [query for query in queries if isinstance(query, Query)]
        # A collection that nobody can tell of in time delays the others no longer than its own share.
        stages = Stages(timeout_s=timeout_s)
        models = await asyncio.gather(*(self._models(query, who, stages) for query in asked))
        texts: defaultdict[str, list[str]] = defaultdict(list)
        for query, each in zip(asked, models, strict=True):
            for model in each:
                texts[model].append(query.text)
        embedding = EmbeddingPass(self._embedder, texts)
        retriever = self._retriever.with_embedder(embedding)
        try:
            return await asyncio.gather(*(_outcome(retriever, query, who, timeout_s) for query in queries))
        finally:
            await embedding.close()

    async def _models(self, query: Query, who: Caller, stages: Stages) -> set[str]:
        """The models that the query may have to be embedded by."""
        if query.vector or not query.text.strip() or (query.mode is Mode.SPARSE and not query.min_score):
            return set()
        try:
            views = await stages.within("authorize", self._retriever.views(query.collection_ids, who))
        except DomainError:  # its own search tells of it
            return set()
        return {view.embedding_model for view in views}


async def _outcome(
    retriever: Retriever, query: Query | DomainError, who: Caller, timeout_s: float | None
) -> Answer | DomainError:
    if isinstance(query, DomainError):
        return query
    try:
        return await retriever.search(query, who, timeout_s=timeout_s)
    except DomainError as error:
        return error


class EmbeddingPass:
    """Fulfils QueryEmbedder for some searches that run together.

    The first that needs a vector has those of all made, so a batch that needs none makes none.

    Args:
        texts: Those of all the searches, by model.
    """

    def __init__(self, embedder: QueryEmbedder, texts: Mapping[str, Sequence[str]]) -> None:
        self._embedder = embedder
        self._texts = {model: list(dict.fromkeys(each)) for model, each in texts.items()}
        self._passes: dict[str, asyncio.Task[dict[str, QueryEmbedding | DomainError]]] = {}

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        if text not in self._texts.get(model, ()):
            return await self._embedder.embed(model, text)
        if model not in self._passes:
            self._passes[model] = asyncio.create_task(self._all(model))
        # Whoever is out of time leaves the others theirs.
        found = (await asyncio.shield(self._passes[model]))[text]
        if isinstance(found, DomainError):
            raise found
        return found

    async def embed_each(self, model: str, texts: Sequence[str]) -> Sequence[QueryEmbedding | DomainError]:
        return await self._embedder.embed_each(model, texts)

    async def close(self) -> None:
        """Ends what nobody waits for any more."""
        for each in self._passes.values():
            each.cancel()
        await asyncio.gather(*self._passes.values(), return_exceptions=True)

    async def _all(self, model: str) -> dict[str, QueryEmbedding | DomainError]:
        texts = self._texts[model]
        return dict(zip(texts, await self._embedder.embed_each(model, texts), strict=True))
