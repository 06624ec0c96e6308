"""How well each mode ranks, beside exact search over the same vectors and BM25 by another library: `make quality`."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.ports import InputType
from services.mesh.identity import Caller
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import IndexId, Mode
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.freshness import Freshness
from services.retrieval.indexer import Indexer
from services.retrieval.ports import QueryEmbedding, VectorStore
from services.retrieval.retriever import Query, Retriever
from services.retrieval.scaling import SparseScales
from services.retrieval.usage import Usage
from tests.exact_search import VARIANTS, Bm25, ExactSearch, ndcg
from tests.retrieval_fakes import FakeRegistry, FakeReranker, FakeRevisions, FakeUsageSink, chunk, view
from tests.retrieval_sets import LabelledSet, judged_questions, language_reference, library_docstrings, manual_pages

TOLERANCE = 0.005
_WHO = Caller(tenant="acme", subject="ann")
_INDEX = IndexId("uid-docs")
_SUBSET = 100
_SUBSETS = 2000

Vectors = Mapping[str, NDArray[np.float32]]
"""By text."""


class _Embedder:
    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        return QueryEmbedding(self._vectors[text].tobytes(), 1)


@asynccontextmanager
async def searching(store: VectorStore, passages: Mapping[str, str], vectors: Vectors) -> AsyncIterator[Retriever]:
    """A retriever over the passages, written as an import would: a document at a time, average lengths drifting."""
    collections = CollectionsMirror(FakeRegistry())
    collections.apply(view(dimension=len(next(iter(vectors.values())))))

    async def language_of(index: IndexId) -> str:
        return (await collections.by_uid(index)).language

    scales = SparseScales(store, language_of)
    revisions = FakeRevisions()
    indexer = Indexer(store, collections, revisions, scales)
    working = asyncio.create_task(scales.run())
    # Shortest first: the average drifts as far as it can.
    for id_, text in sorted(passages.items(), key=lambda passage: len(passage[1])):
        await indexer.upsert(_INDEX, [(chunk(text, document=id_), vectors[text].tobytes())])
    await scales.settled()
    freshness, usage = Freshness(revisions), Usage(FakeUsageSink())
    yield Retriever(store, _Embedder(vectors), collections, scales, freshness, FakeReranker(), usage)
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working


async def reached(retriever: Retriever, mode: Mode, answers: Mapping[str, frozenset[str]]) -> NDArray[np.float64]:
    """nDCG@10 of each question."""
    found = []
    for question, relevant in answers.items():
        answer = await retriever.search(Query(text=question, collection="docs", mode=mode), _WHO)
        found.append(ndcg([hit.found.chunk.document.document_id for hit in answer.hits], relevant))
    return np.array(found)


def exact(given: LabelledSet, vectors: Vectors, bm25: Bm25) -> dict[Mode, NDArray[np.float64]]:
    """The same, computed apart."""
    ids, texts = list(given.passages), list(given.passages.values())
    search = ExactSearch(texts, np.stack([vectors[text] for text in texts]), bm25)
    rankings: dict[Mode, Callable[[str], list[int]]] = {
        Mode.DENSE: lambda question: search.dense(vectors[question]),
        Mode.SPARSE: search.sparse,
        Mode.HYBRID: lambda question: search.hybrid(question, vectors[question]),
    }
    return {
        mode: np.array(
            [ndcg([ids[place] for place in ranking(question)], right) for question, right in given.answers.items()]
        )
        for mode, ranking in rankings.items()
    }


@dataclass(frozen=True)
class Compared:
    """One mode on one set, beside the best of what was computed apart."""

    mode: Mode
    ours: float
    best: float
    variant: str
    spread: tuple[float, float]

    @property
    def holds(self) -> bool:
        return self.ours >= self.best - TOLERANCE


async def compare(given: LabelledSet, vectors: Vectors, folder: Path) -> list[Compared]:
    """Each mode against the best variant of its baseline; `spread` is of random hundreds of questions, 5 % to 95 %."""
    apart = {bm25: exact(given, vectors, bm25) for bm25 in VARIANTS}
    made = []
    # A graph over half of the passages, at least: searches walk it.
    threshold = max(100, len(given.passages) // 2)
    async with (
        EdgeVectorStore.open(folder, build_threshold=threshold) as store,
        searching(store, given.passages, vectors) as retriever,
    ):
        for mode in Mode:
            ours = await reached(retriever, mode, given.answers)
            bm25 = max(apart, key=lambda each: apart[each][mode].mean())
            theirs = apart[bm25][mode]
            random = np.random.default_rng(0)
            differences = [(ours - theirs)[random.choice(len(ours), _SUBSET)].mean() for _ in range(_SUBSETS)]
            low, high = np.percentile(differences, [5, 95])
            variant = "exact" if mode is Mode.DENSE else str(bm25)
            made.append(Compared(mode, float(ours.mean()), float(theirs.mean()), variant, (low, high)))
    return made


async def _embed(model: OnnxModel, given: LabelledSet, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Adds the vectors of the set's texts to those there are."""
    new = {*given.passages.values(), *given.answers} - vectors.keys()
    for text in track(sorted(new, key=len), "embedding", console=_ERRORS):
        read_as = InputType.QUERY if text in given.answers else InputType.DOCUMENT
        (vector,) = await model.embed(await model.tokenize([text]), read_as)
        vectors[text] = np.frombuffer(vector, "<f4")


_ERRORS = Console(stderr=True)
_SETS: list[Callable[[], LabelledSet]] = [judged_questions, language_reference, library_docstrings, manual_pages]


async def main() -> int:
    """Prints the table; 1 where a mode is worse than the best of its baselines by more than the tolerance."""
    table = Table("set", "passages", "questions", "mode", "nDCG@10", "computed apart", "difference", "of 100 questions")
    failed = False
    vectors: dict[str, NDArray[np.float32]] = {}
    async with OnnxModel.open(ModelFiles.packaged(), workers=1) as model:
        for labelled in _SETS:
            given = labelled()
            if not given.passages:
                _ERRORS.print(f"{labelled.__name__}: there is nothing of it on this machine")
                continue
            await _embed(model, given, vectors)
            with tempfile.TemporaryDirectory() as folder:
                compared = await compare(given, vectors, Path(folder))
            sizes: tuple[Any, ...] = (labelled.__name__, len(given.passages), len(given.answers))
            for each in compared:
                failed |= not each.holds
                figures = (
                    f"{each.ours:.4f}",
                    f"{each.best:.4f} ({each.variant})",
                    f"{each.ours - each.best:+.4f}{'' if each.holds else ' WORSE'}",
                    "{:+.4f} to {:+.4f}".format(*each.spread),
                )
                table.add_row(*map(str, sizes), each.mode.name, *figures)
    Console(width=160).print(table)
    return int(failed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
