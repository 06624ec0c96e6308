"""A retriever over fakes, and documents of one sentence each for it to find."""

from services.mesh.identity import Caller
from services.retrieval.chunks import Found, IndexId, VectorQuery
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.freshness import Freshness
from services.retrieval.query import Query
from services.retrieval.retriever import Answer, Retriever
from services.retrieval.scaling import SparseScales
from services.retrieval.usage import Usage
from tests.retrieval_fakes import (
    FakeEmbedder,
    FakeRegistry,
    FakeReranker,
    FakeRevisions,
    FakeUsageSink,
    MemoryVectorStore,
    chunk,
    encoded,
    view,
)

ANN = Caller(tenant="acme", subject="ann", principals=frozenset({"user:ann", "group:staff"}))
ANONYMOUS = Caller(tenant="acme", subject="anonymous", anonymous=True)

TEXTS = {
    "foxes": "Foxes jump over lazy dogs",
    "dogs": "dogs are friends of foxes",
    "weather": "the weather in spring",
    "apples": "apples and pears",
}


class RecordingStore(MemoryVectorStore):
    """Remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.queries: list[VectorQuery] = []

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        self.queries.append(query)
        return await super().search(index, query)


class Searching:
    """A retriever over documents of one sentence each."""

    def __init__(self, *views: CollectionView) -> None:
        self.store = RecordingStore()
        self.embedder = FakeEmbedder()
        self.collections = CollectionsMirror(FakeRegistry())
        for each in views or (view(),):
            self.collections.apply(each)
        scales = SparseScales(self.store, self.collections.language_of)
        self.revisions = FakeRevisions()
        freshness = Freshness(self.revisions)
        self.reranker = FakeReranker()
        self.usage = FakeUsageSink()
        self.counted = Usage(self.usage)
        self.retriever = Retriever(
            self.store, self.embedder, self.collections, scales, freshness, self.reranker, self.counted
        )

    async def holding(self, *collection_ids: str, **document_fields: dict[str, object]) -> "Searching":
        for collection_id in collection_ids or ("docs",):
            index = IndexId(f"uid-{collection_id}")
            await self.store.ensure_index(index, 4)
            await self.store.upsert(
                index,
                [
                    encoded(chunk(text, document=name, document_fields=document_fields.get(name, {})), scale=70)
                    for name, text in TEXTS.items()
                ],
            )
        return self

    async def search(self, text: str = "foxes", who: Caller = ANN, **fields: object) -> Answer:
        asked = {"collection": "docs", **fields}
        if "collections" in fields:
            del asked["collection"]
        return await self.retriever.search(Query(text=text, **asked), who)  # type: ignore[arg-type]


def documents(answer: Answer) -> list[str]:
    return [hit.found.chunk.document.document_id for hit in answer.hits]
