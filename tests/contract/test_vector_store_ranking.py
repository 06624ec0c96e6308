"""Every mode ranks as well as exact search, BM25 and the two fused, all computed apart from the services."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import bm25s
import pytest

from services.mesh.identity import Caller
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.chunks import Mode
from services.retrieval.ports import VectorStore
from services.retrieval.retriever import Query
from services.retrieval.sparse import encoder_for
from tests.exact_search import Bm25
from tests.quality import TOLERANCE, exact, reached, searching
from tests.retrieval_sets import LabelledSet, embedded, language_reference, library_docstrings

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
]


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


@pytest.mark.parametrize(
    ("kind", "labelled"),
    # The larger set is left out where qdrant-client imitates a server, slowly.
    [("edge", language_reference), ("edge", library_docstrings), ("qdrant", language_reference)],
)
async def test_every_mode_ranks_as_well_as_exact_search(
    kind: str, labelled: Callable[[], LabelledSet], tmp_path: Path
) -> None:
    given = labelled()
    vectors = {text: embedded(text) for text in (*given.passages.values(), *given.answers)}
    wanted = exact(given, vectors, Bm25())
    async with store_of(kind, tmp_path) as store, searching(store, given.passages, vectors) as retriever:
        found = {mode: await reached(retriever, mode, given.answers) for mode in Mode}
    means = {mode: (round(found[mode].mean(), 4), round(wanted[mode].mean(), 4)) for mode in Mode}
    print(f"{kind} {labelled.__name__}: {len(given.passages)} passages, {len(given.answers)} questions: {means}")
    for mode, (ours, theirs) in means.items():
        assert ours >= theirs - TOLERANCE, mode


async def test_sparse_scores_are_those_of_bm25_on_the_same_terms(tmp_path: Path) -> None:
    given = language_reference()
    who = Caller(tenant="acme", subject="ann")
    vectors = {text: embedded(text) for text in (*given.passages.values(), *given.answers)}
    encoder = encoder_for("en")
    terms = [[str(term.index) for term in encoder.terms(text)] for text in given.passages.values()]
    index = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    index.index(terms, show_progress=False)
    ids = list(given.passages)
    async with store_of("edge", tmp_path) as store, searching(store, given.passages, vectors) as retriever:
        for question in given.answers:
            asked = [str(term.index) for term in encoder.terms(question)]
            scores = index.get_scores([token for token in asked if token in index.vocab_dict])
            answer = await retriever.search(Query(text=question, collection="docs", mode=Mode.SPARSE), who)
            assert answer.hits
            for hit in answer.hits:
                # bm25s leaves out the constant factor k1 + 1.
                exact = scores[ids.index(hit.found.chunk.document.document_id)] * 2.2
                assert hit.found.score == pytest.approx(exact, rel=0.01)
