"""Hybrid search ranks as well as exact search fused with BM25, both computed here by other means."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import bm25s
import numpy as np
import pytest
import snowballstemmer

from services.mesh.identity import Caller
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.chunks import IndexId, Mode
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.freshness import Freshness
from services.retrieval.indexer import Indexer
from services.retrieval.ports import QueryEmbedding, VectorStore
from services.retrieval.query import Query
from services.retrieval.retriever import Retriever
from services.retrieval.scaling import SparseScales
from tests.retrieval_fakes import FakeRegistry, FakeRevisions, chunk, view
from tests.retrieval_sets import DIMENSION, LabelledSet, embedded, language_reference, library_docstrings

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]

TOLERANCE = 0.005


class Embedder:
    async def embed(self, model: str, text: str) -> QueryEmbedding:
        return QueryEmbedding(embedded(text).tobytes(), 1)


@asynccontextmanager
async def store_of(kind: str, folder: Path) -> AsyncIterator[VectorStore]:
    if kind == "edge":
        async with EdgeVectorStore.open(folder) as store:
            yield store
    else:
        from qdrant_client import AsyncQdrantClient

        client = AsyncQdrantClient(":memory:")
        yield QdrantVectorStore(client)
        await client.close()


@asynccontextmanager
async def searching(store: VectorStore, passages: dict[str, str]) -> AsyncIterator[Retriever]:
    """A retriever over the passages, written as an import would: a document at a time, average lengths drifting."""
    collections = CollectionsMirror(FakeRegistry())
    collections.apply(view(dimension=DIMENSION))

    async def language_of(index: IndexId) -> str:
        return (await collections.by_uid(index)).language

    scales = SparseScales(store, language_of)
    revisions = FakeRevisions()
    indexer = Indexer(store, collections, revisions, scales)
    working = asyncio.create_task(scales.run())
    # Shortest first: the average drifts as far as it can.
    for id_, text in sorted(passages.items(), key=lambda passage: len(passage[1])):
        await indexer.upsert(IndexId("uid-docs"), [(chunk(text, document=id_), embedded(text).tobytes())])
    await scales.settled()
    yield Retriever(store, Embedder(), collections, scales, Freshness(revisions))
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


def exact_hybrid(labelled: LabelledSet) -> Callable[[str], list[str]]:
    """Brute force over the same vectors, fused by RRF with bm25s (Lucene's formula, its own tokenizer)."""
    ids, texts = list(labelled.passages), list(labelled.passages.values())
    stemmer = snowballstemmer.stemmer("english")

    def tokens(text: str | Sequence[str]) -> list[list[str]]:
        found = bm25s.tokenize(text, stopwords="en", stemmer=stemmer.stemWords, return_ids=False, show_progress=False)
        return [list(each) for each in found]

    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(tokens(texts), show_progress=False)
    vectors = np.stack([embedded(text) for text in texts])

    def search(question: str) -> list[str]:
        dense = vectors @ embedded(question)
        asked = [token for token in tokens(question)[0] if token in index.vocab_dict]
        sparse = index.get_scores(asked) if asked else np.zeros(len(ids))
        fused: dict[str, float] = {}
        for scores, least in ((dense, -math.inf), (sparse, 0.0)):
            best = [place for place in np.argsort(-scores, kind="stable") if scores[place] > least]
            for rank, place in enumerate(best, start=1):
                fused[ids[place]] = fused.get(ids[place], 0.0) + 1 / (60 + rank)
        return sorted(fused, key=lambda id_: -fused[id_])[:10]

    return search


def ndcg(found: Sequence[str], relevant: frozenset[str]) -> float:
    """nDCG@10 with relevance 0 or 1."""
    gained = sum(1 / math.log2(rank + 1) for rank, id_ in enumerate(found[:10], start=1) if id_ in relevant)
    return gained / sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(relevant)) + 1))


@pytest.mark.parametrize(
    ("kind", "labelled"),
    # The larger set is left out where qdrant-client imitates a server, slowly.
    [("edge", language_reference), ("edge", library_docstrings), ("qdrant", language_reference)],
)
async def test_hybrid_search_ranks_as_well_as_exact_search(
    kind: str, labelled: Callable[[], LabelledSet], tmp_path: Path
) -> None:
    given = labelled()
    reference = exact_hybrid(given)
    wanted = np.mean([ndcg(reference(question), relevant) for question, relevant in given.answers.items()])
    who = Caller(tenant="acme", subject="ann")
    async with store_of(kind, tmp_path) as store, searching(store, given.passages) as retriever:
        reached = []
        for question, relevant in given.answers.items():
            answer = await retriever.search(Query(text=question, collection="docs"), who)
            reached.append(ndcg([hit.found.chunk.document.document_id for hit in answer.hits], relevant))
    print(
        f"{kind} {labelled.__name__}: {len(given.passages)} passages, {len(reached)} questions, "
        f"nDCG@10 {np.mean(reached):.4f}, exact {wanted:.4f}"
    )
    assert np.mean(reached) >= wanted - TOLERANCE


async def test_sparse_scores_are_those_of_bm25_on_the_same_terms(tmp_path: Path) -> None:
    given = language_reference()
    who = Caller(tenant="acme", subject="ann")
    from services.retrieval.sparse import encoder_for

    encoder = encoder_for("en")
    terms = [[str(term.index) for term in encoder.terms(text)] for text in given.passages.values()]
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(terms, show_progress=False)
    ids = list(given.passages)
    async with store_of("edge", tmp_path) as store, searching(store, given.passages) as retriever:
        for question in given.answers:
            asked = [str(term.index) for term in encoder.terms(question)]
            scores = index.get_scores([token for token in asked if token in index.vocab_dict])
            answer = await retriever.search(Query(text=question, collection="docs", mode=Mode.SPARSE), who)
            assert answer.hits
            for hit in answer.hits:
                # bm25s leaves out the constant factor k1 + 1.
                exact = scores[ids.index(hit.found.chunk.document.document_id)] * 2.2
                assert hit.found.score == pytest.approx(exact, rel=0.01)
