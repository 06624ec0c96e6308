"""What a filter lets through is ranked, alike by both vector stores, and nothing is cut off before it.

Sizes are small in the suite; `make filter-test` takes those that are promised.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from services.mesh.filters import parse
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.chunks import EncodedChunk, Found, IndexId, Mode, VectorQuery
from services.retrieval.filterable import SCHEMA
from services.retrieval.ports import VectorStore
from services.retrieval.sparse import encoder_for
from tests.qdrant_stores import qdrant_store
from tests.retrieval_fakes import chunk, encoded, vector

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.timeout(600),
]

QUERIES = int(os.environ.get("QUERIES", "10"))
CHUNKS = int(os.environ.get("CHUNKS", "500"))
DIMENSION = 384 if CHUNKS >= 20_000 else 32
INDEX = IndexId("uid-1")
WORDS = [f"w{number}" for number in range(400)]
MODES = pytest.mark.parametrize("mode", list(Mode))


class Passages:
    """Passages about some topics, and questions on them; the same for every store."""

    def __init__(self, count: int, dimension: int, seed: int = 6) -> None:
        self._chance = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        self._topics = self._numbers.standard_normal((40, dimension))
        self.chunks = [self._chunk(number) for number in range(count)]

    def _near(self, topic: int) -> list[float]:
        noise = self._numbers.standard_normal(self._topics.shape[1])
        return [float(value) for value in self._topics[topic] + noise]

    def _text(self, topic: int, length: int) -> str:
        own = WORDS[topic * 10 : topic * 10 + 10]
        return " ".join(self._chance.choice(own if self._chance.random() < 0.4 else WORDS) for _ in range(length))

    def _chunk(self, number: int) -> EncodedChunk:
        chance, topic = self._chance, number % 40
        metadata = {
            "n": float(chance.randrange(100)),
            "kind": chance.choice(["a", "b", "c", "d"]),
            "tags": chance.sample(["x", "y", "z"], k=chance.randrange(4)),
            "at": {"day": f"2024-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"},
            **({"draft": True} if chance.random() < 0.1 else {}),
        }
        of = chunk(
            self._text(topic, chance.randint(10, 60)),
            document=f"d{number // 3}",
            ordinal=number,
            document_fields={"metadata": metadata, "title": f"title {topic}"},
        )
        return encoded(of, self._near(topic), scale=200)

    def query(self, mode: Mode) -> VectorQuery:
        topic = self._chance.randrange(40)
        asked = vector(self._near(topic)) if mode is not Mode.SPARSE else None
        words = encoder_for("en").query(self._text(topic, 4)) if mode is not Mode.DENSE else None
        return VectorQuery(asked, words, filter=parse(self._filter(), SCHEMA))

    def _filter(self) -> str:
        chance = self._chance
        n, month = chance.randrange(1, 100), chance.randint(2, 11)
        part = [
            f"metadata.n < {n}",
            f"metadata.n = {n}",
            f'metadata.kind = ("{chance.choice("ab")}" OR "c")',
            'metadata.tags:"x" AND NOT metadata.tags:"y"',
            f'metadata.at.day >= "2024-{month:02}-01"',
            "NOT exists(metadata.draft)",
            f'prefix(title, "title {chance.randrange(1, 4)}")',
            f"metadata.n > 50 OR metadata.kind != a OR metadata.n = {n}",
        ]
        return " AND ".join(f"({each})" for each in chance.sample(part, k=chance.choice([1, 1, 2])))


async def fill(store: VectorStore, chunks: Sequence[EncodedChunk]) -> None:
    await store.ensure_index(INDEX, len(chunks[0].vector) // 4)
    for start in range(0, len(chunks), 1000):
        await store.upsert(INDEX, chunks[start : start + 1000])


def ids(found: Found) -> list[str]:
    return [hit.chunk.chunk_id for hit in found.hits]


async def test_both_stores_give_the_same_ten_best_of_what_a_filter_lets_through(tmp_path: Path) -> None:
    passages = Passages(min(CHUNKS, 3000), 32)
    async with EdgeVectorStore.open(tmp_path) as edge, qdrant_store(INDEX) as qdrant:
        for store in (edge, qdrant):
            await fill(store, passages.chunks)
        full = 0
        for mode in Mode:
            for number in range(QUERIES):
                query = replace(passages.query(mode), exact=True)
                here, there = await edge.search(INDEX, query), await qdrant.search(INDEX, query)
                assert ids(here) == ids(there), f"{mode} {number}: {query.filter}"
                assert [hit.score for hit in here.hits] == pytest.approx([hit.score for hit in there.hits], rel=1e-4)
                full += len(here.hits) == 10
        assert full > QUERIES
        print(
            f"{QUERIES} queries a mode over {len(passages.chunks)} chunks: the same ten ({full} times there were ten)"
        )


async def test_the_graph_finds_nearly_all_of_the_ten_best_that_a_filter_lets_through(tmp_path: Path) -> None:
    passages = Passages(CHUNKS, DIMENSION)
    async with EdgeVectorStore.open(tmp_path, build_threshold=10**9) as edge:
        await fill(edge, passages.chunks)
        await edge.build(INDEX)
        assert (await edge.stats(INDEX)).indexed_chunks == CHUNKS
        for mode in Mode:
            overlaps = []
            for _ in range(QUERIES):
                query = passages.query(mode)
                exact = set(ids(await edge.search(INDEX, replace(query, exact=True))))
                found = set(ids(await edge.search(INDEX, query)))
                overlaps.append(len(exact & found) / len(exact) if exact else 1.0)
            print(f"{mode}: {QUERIES} queries by the graph over {CHUNKS} chunks: overlap {np.mean(overlaps):.4f}")
            assert np.mean(overlaps) >= 0.95


def farthest(count: int) -> list[EncodedChunk]:
    """Chunks that all answer "fox" best, but for five that are as far from it as can be, and marked."""
    chance = np.random.default_rng(5)
    made = []
    for number in range(count):
        kept = number % (count // 5) == count // 7
        of = chunk(
            "a fox, after " + "many other words " * 30 if kept else "fox fox fox",
            ordinal=number,
            document_fields={"metadata": {"kept": kept, "due": "2031-01-01" if kept else "2024-01-01"}},
        )
        near = [-1.0 if kept else 1.0, *(float(value) for value in chance.normal(0, 0.1, 7))]
        made.append(encoded(of, near, scale=200))
    return made


@pytest.mark.parametrize("kind", ["edge", "qdrant"])
async def test_five_chunks_far_from_the_query_come_back_when_the_filter_keeps_them_alone(
    kind: str, tmp_path: Path
) -> None:
    chunks = farthest(CHUNKS)
    wanted = {each.chunk.chunk_id for each in chunks if each.chunk.document.metadata["kept"]}
    assert len(wanted) == 5
    async with EdgeVectorStore.open(tmp_path, build_threshold=10**9) as edge, qdrant_store(INDEX) as qdrant:
        store: VectorStore = edge if kind == "edge" else qdrant
        await fill(store, chunks)
        for built in (False, True):
            if built and kind == "edge":
                await edge.build(INDEX)
                assert (await edge.stats(INDEX)).indexed_chunks == CHUNKS
            for mode in Mode:
                dense = vector([1.0] + [0.0] * 7) if mode is not Mode.SPARSE else None
                sparse = encoder_for("en").query("fox") if mode is not Mode.DENSE else None
                for text in ("metadata.kept = true", "metadata.due > 2030-01-01", "NOT metadata.due < 2030-01-01"):
                    found = await store.search(INDEX, VectorQuery(dense, sparse, filter=parse(text, SCHEMA)))
                    assert set(ids(found)) == wanted, f"{mode} {text} built: {built}"
