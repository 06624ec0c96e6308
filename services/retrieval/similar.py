"""Passages like one there is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from services.mesh.errors import ChunkNotFound, DocumentNotFound, InvalidArgument
from services.mesh.filters import Comparison, Filter, Operator, all_of
from services.mesh.identity import Caller
from services.retrieval.chunks import Mode
from services.retrieval.collection import CollectionView
from services.retrieval.filterable import visible_to
from services.retrieval.ports import VectorStore
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.stages import Stages
from services.retrieval.usage import Search, Usage

# Chunks of a document whose mean stands for it.
MAX_CHUNKS: Final = 1000

_NAME: Final = re.compile(
    r"collections/(?P<collection>[A-Za-z0-9_.-]{1,128})/documents/(?P<document>[A-Za-z0-9_.-]{1,128})"
    r"(/chunks/(?P<chunk>[A-Za-z0-9_.-]{1,128}))?"
)


@dataclass(frozen=True, slots=True)
class Example:
    """A chunk, or a document where `chunk_id` is empty."""

    collection_id: str
    document_id: str
    chunk_id: str = ""

    @classmethod
    def named(cls, name: str) -> "Example":
        """What a resource name stands for.

        Raises:
            InvalidArgument: It is neither a document's nor a chunk's.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            shape = "collections/{collection}/documents/{document}, with or without /chunks/{chunk}"
            raise InvalidArgument.of("name", f"takes {shape}, found {name!r:.80}")
        return cls(found["collection"], found["document"], found["chunk"] or "")

    @property
    def chosen(self) -> Filter:
        """Its chunks."""
        parts = [Comparison(("document",), Operator.EQ, self.document_id)]
        if self.chunk_id:
            parts.append(Comparison(("chunk",), Operator.EQ, self.chunk_id))
        return all_of(*parts)


class SimilarFinder:
    """Finds passages like an example, by the vectors it was stored with.

    Args:
        usage: Told how each search ended.
    """

    def __init__(self, retriever: Retriever, store: VectorStore, usage: Usage) -> None:
        self._retriever = retriever
        self._store = store
        self._usage = usage

    async def find(
        self, name: str, query: Query, who: Caller, *, same_document: bool = False, timeout_s: float | None = None
    ) -> Answer:
        """The passages most like the example, which is none of them.

        Args:
            query: Which collections, filters and pages; its text, vector and mode count for nothing.
            same_document: Other chunks of the example's document are found too.

        Raises:
            InvalidArgument: The name is none, or a collection is of another model than the example's.
            DocumentNotFound, ChunkNotFound: There is no such example, or the caller may not see it.
        """
        example = Example.named(name)
        stages = Stages(timeout_s=timeout_s, require_all=query.require_all, explain=query.explain)
        with self._usage.search(who.tenant) as search, stages.whole():
            with stages.timed("example"):
                asked = await stages.within(
                    "example", self._asked(example, query, who, search, same_document=same_document)
                )
            return await self._retriever.answer(asked, who, stages, search)

    async def _asked(
        self, example: Example, query: Query, who: Caller, search: Search, *, same_document: bool
    ) -> Query:
        """The search for what is like the example; tells `search` of its collections."""
        own, *others = await self._retriever.views([example.collection_id, *query.named_collections], who)
        search.views = others or [own]
        for view in others:
            if view.embedding_model != own.embedding_model:
                wrong = f"{view.collection_id!r} is of model {view.embedding_model}, the example of"
                raise InvalidArgument.of("collections", f"{wrong} {own.embedding_model}: their vectors do not compare")
        return replace(
            query,
            text="",
            vector=await self._vector(example, own, who),
            mode=Mode.DENSE,
            collection="" if query.collections else example.collection_id,
            without=(own.uid, replace(example, chunk_id=example.chunk_id if same_document else "").chosen),
        )

    async def _vector(self, example: Example, view: CollectionView, who: Caller) -> Sequence[float]:
        limit = 1 if example.chunk_id else MAX_CHUNKS
        vectors = await self._store.vectors(view.uid, all_of(example.chosen, visible_to(who)), limit)
        if not vectors:
            within = f"in collection {example.collection_id!r}"
            if example.chunk_id:
                raise ChunkNotFound(f"no chunk {example.chunk_id!r} of document {example.document_id!r} {within}")
            raise DocumentNotFound(f"no document {example.document_id!r} with chunks {within}")
        mean: list[float] = np.stack([np.frombuffer(each, "<f4") for each in vectors]).mean(axis=0).tolist()
        return mean
