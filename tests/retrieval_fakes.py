"""Stand-ins of retrieval's ports, and makers of its values."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from services.mesh.errors import DependencyUnavailable, DomainError, FailedPrecondition, TextTooLong
from services.mesh.filters import Filter, Path, evaluate
from services.retrieval.adapters.qdrant_payload import payload_of
from services.retrieval.chunks import (
    Chunk,
    Distance,
    DocumentFields,
    EncodedChunk,
    Found,
    IndexId,
    IndexStats,
    LengthStats,
    Part,
    ScoredChunk,
    SparseVector,
    StageScore,
    VectorQuery,
)
from services.retrieval.collection import Changes, CollectionView
from services.retrieval.fusion import merge, ranked
from services.retrieval.ports import Bumped, Heard, PassageScores, QueryEmbedding, Question, UnscaledChunk
from services.retrieval.ranking import Hit
from services.retrieval.sparse import document_vector, encoder_for, scale_of
from services.retrieval.tally import HourTally
from services.retrieval.values import Counts, ValueCounter


class MemoryVectorStore:
    """Fulfils VectorStore by looking at every chunk."""

    def __init__(self) -> None:
        self._indexes: dict[IndexId, tuple[int, Distance, dict[int, EncodedChunk]]] = {}

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        known = self._indexes.setdefault(index, (dimension, distance, {}))
        if known[:2] != (dimension, distance):
            raise FailedPrecondition("the index has another dimension or distance")

    async def drop(self, index: IndexId) -> None:
        self._indexes.pop(index, None)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        if index not in self._indexes:
            raise LookupError(index)
        for each in chunks:
            self._indexes[index][2][_key(each)] = each

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        self._keep(index, lambda each: each.chunk.document.document_id not in document_ids)

    async def retire(self, index: IndexId, document_id: str, keep_revision_key: str) -> None:
        self._keep(
            index,
            lambda each: each.chunk.document.document_id != document_id or each.chunk.revision_key == keep_revision_key,
        )

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        for key, each in self._chunks(index).items():
            held = each.chunk.document
            if held.document_id in document_ids and held.generation <= generation:
                given = {**fields, **({"principals": tuple(fields["principals"])} if "principals" in fields else {})}
                document = replace(held, **given, generation=generation)
                self._chunks(index)[key] = replace(each, chunk=replace(each.chunk, document=document))

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        chunks = self._chunks(index)
        chosen = {key: each for key, each in chunks.items() if evaluate(query.filter, payload_of(each))}
        dense = sparse = None
        if query.dense is not None:
            asked = np.frombuffer(query.dense, "<f4")
            dense = ranked([(key, _cosine(asked, each.vector)) for key, each in chosen.items()])[: query.depth]
        if query.sparse is not None:
            scores = [(key, _bm25(query.sparse, each.sparse, chunks.values())) for key, each in chosen.items()]
            sparse = ranked([(key, score) for key, score in scores if score > 0])[: query.depth]
        fused = merge(query.fusion, dense, sparse)
        candidates = len(fused)
        similarities = dict(dense or [])
        if query.reference is not None and query.min_similarity is not None:
            asked = np.frombuffer(query.reference, "<f4")
            similarities = {key: _cosine(asked, chosen[key].vector) for key, _ in fused}
            fused = [hit for hit in fused if similarities[hit[0]] >= query.min_similarity]
        hits = fused[: query.limit]
        found = [
            ScoredChunk(
                _less(chosen[key].chunk, query.left_out),
                score,
                _stages(key, dense=dense, sparse=sparse),
                similarities.get(key),
                chosen[key].vector if query.with_vectors else None,
            )
            for key, score in hits
        ]
        by_stage = {stage: len(each) for stage, each in (("dense", dense), ("sparse", sparse)) if each is not None}
        return Found(found, candidates, by_stage)

    async def fetch(
        self, index: IndexId, keys: Sequence[int], chosen: Filter, left_out: Collection[Part] = ()
    ) -> Mapping[int, Chunk]:
        found = (self._chunks(index).get(key) for key in keys)
        let_through = (each.chunk for each in found if each and evaluate(chosen, payload_of(each)))
        return {each.key: _less(each, left_out) for each in let_through}

    async def vectors(self, index: IndexId, chosen: Filter, limit: int) -> Sequence[bytes]:
        found = [each.vector for each in self._chunks(index).values() if evaluate(chosen, payload_of(each))]
        return found[:limit]

    async def list_chunks(self, index: IndexId, document_id: str, from_ordinal: int, limit: int) -> Sequence[Chunk]:
        chunks = [each.chunk for each in self._chunks(index).values()]
        page = range(from_ordinal, from_ordinal + limit)
        listed = [each for each in chunks if each.document.document_id == document_id and each.ordinal in page]
        return sorted(listed, key=lambda chunk: (chunk.ordinal, chunk.chunk_id))

    async def adjacent(self, index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
        around = {
            (each.document.document_id, each.revision_key, ordinal)
            for each in chunks
            for ordinal in range(each.ordinal - reach, each.ordinal + reach + 1)
        }
        kept = [each.chunk for each in self._chunks(index).values() if evaluate(chosen, payload_of(each))]
        found = [each for each in kept if (each.document.document_id, each.revision_key, each.ordinal) in around]
        return [_less(each, [Part.METADATA]) for each in found]

    async def count_values(self, index: IndexId, paths: Sequence[Path], chosen: Filter) -> Counts:
        counter = ValueCounter(paths)
        for each in self._chunks(index).values():
            if evaluate(chosen, payload_of(each)):
                counter.note(payload_of(each))
        return counter.counts

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        chunks = [each.chunk for each in self._chunks(index).values()]
        return sum(
            document_id in ("", chunk.document.document_id)
            and revision_key in ("", chunk.revision_key)
            and chunk.document.fence > above
            for chunk in chunks
        )

    async def stats(self, index: IndexId) -> IndexStats:
        return IndexStats(len(self._chunks(index)), 0)

    async def length_stats(self, index: IndexId) -> LengthStats:
        chunks = self._chunks(index).values()
        scales = Counter(each.scale for each in chunks)
        return LengthStats(len(chunks), sum(each.length for each in chunks), scales)

    async def of_scales(self, index: IndexId, scales: Collection[int], limit: int) -> Sequence[UnscaledChunk]:
        chosen = [(key, each) for key, each in self._chunks(index).items() if each.scale in scales]
        return [UnscaledChunk(str(key), each.chunk.searched_text) for key, each in chosen[:limit]]

    async def rescale(self, index: IndexId, scale: int, vectors: Mapping[str, SparseVector]) -> None:
        chunks = self._chunks(index)
        for name, vector in vectors.items():
            if (key := int(name)) in chunks:
                chunks[key] = replace(chunks[key], sparse=vector, scale=scale)

    async def check(self) -> None:
        """Always answers."""

    def _chunks(self, index: IndexId) -> dict[int, EncodedChunk]:
        return self._indexes.get(index, (0, Distance.COSINE, {}))[2]

    def _keep(self, index: IndexId, wanted: Any) -> None:
        for key, each in list(self._chunks(index).items()):
            if not wanted(each):
                del self._chunks(index)[key]


class FakeEmbedder:
    """Fulfils QueryEmbedder with vectors given by text; any other text gets a vector of its own."""

    def __init__(self, vectors: Mapping[str, Sequence[float]] | None = None, dimension: int = 4) -> None:
        self._vectors = vectors or {}
        self._dimension = dimension
        self.asked: list[tuple[str, str]] = []
        self.passes: list[tuple[str, list[str]]] = []
        self.down = False

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        if self.down:
            raise DependencyUnavailable("embedding is unavailable")
        self.asked.append((model, text))
        if len(text) > 8000:
            raise TextTooLong("query: is longer than the model takes")
        return QueryEmbedding(vector(self._vectors.get(text) or direction(text, self._dimension)), len(text.split()))

    async def embed_each(self, model: str, texts: Sequence[str]) -> Sequence[QueryEmbedding | DomainError]:
        self.passes.append((model, list(texts)))
        made: list[QueryEmbedding | DomainError] = []
        for text in texts:
            try:
                made.append(await self.embed(model, text))
            except TextTooLong as error:
                made.append(error)
        return made


class FakeReranker:
    """Fulfils PassageReranker.

    Attributes:
        scores: Of passages by a word they hold, the first that fits; 0 for others.
        asked: Model, query and passages of every call.
        error: Raised by every call while set.
        gate: Closed, it holds every call until opened.
    """

    def __init__(self, **scores: float) -> None:
        self.scores = scores
        self.asked: list[tuple[str, str, list[str]]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def rerank(self, model: str, query: str, passages: Sequence[str]) -> PassageScores:
        self.asked.append((model, query, list(passages)))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        scores = [next((score for word, score in self.scores.items() if word in each), 0.0) for each in passages]
        return PassageScores(f"models/{model.removeprefix('models/') or 'default'}", scores)


class FakeRegistry:
    """Fulfils Registry: collections put here are found, and told to whoever watches."""

    def __init__(self, *views: CollectionView) -> None:
        self.views = {(view.tenant, view.collection_id): view for view in views}
        self.tenant = "acme"
        self.asked: list[str] = []
        self.watched: list[int] = []
        self.up = True
        self._changes: asyncio.Queue[CollectionView | None] = asyncio.Queue()

    async def get(self, collection_id: str) -> CollectionView | None:
        self.asked.append(collection_id)
        return self.views.get((self.tenant, collection_id))

    async def watch(self, after_sequence: int) -> AsyncGenerator[Changes, None]:
        self.watched.append(after_sequence)
        if not self.up:
            raise DependencyUnavailable("down")
        known = [view for view in self.views.values() if view.sequence > after_sequence]
        yield Changes(known, complete=True)
        while (view := await self._changes.get()) is not None:
            yield Changes([view])
        raise DependencyUnavailable("the stream broke")

    def put(self, view: CollectionView) -> None:
        self.views[(view.tenant, view.collection_id)] = view
        self._changes.put_nowait(view)

    def break_stream(self) -> None:
        self._changes.put_nowait(None)


class FakeQuestions:
    """Fulfils Questions in memory."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[Question]] = {}

    async def add(self, counts: Mapping[str, Mapping[Question, int]]) -> None:
        for tenant, questions in counts.items():
            self.counts.setdefault(tenant, Counter()).update(questions)

    async def most_asked(self, tenant: str, index: IndexId | None, limit: int) -> list[Question]:
        own = self._own(tenant, index)
        return sorted(own, key=lambda each: -self.counts[tenant][each])[:limit]

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        own = self._own(tenant, index)
        for each in own:
            del self.counts[tenant][each]
        return len(own)

    def _own(self, tenant: str, index: IndexId | None) -> list[Question]:
        return [each for each in self.counts.get(tenant, ()) if index is None or index in each.indexes]


class FakeRevisions:
    """Fulfils IndexRevisions and RevisionFeed; counts how often it was asked, and tells followers until it is muted."""

    def __init__(self) -> None:
        self.asked = 0
        self.down = False
        self.muted = False
        self._counts: Counter[IndexId] = Counter()
        self.owned: set[tuple[str, IndexId]] = set()
        self._followers: list[asyncio.Queue[Bumped | Heard | None]] = []

    async def bump(self, index: IndexId) -> int:
        if self.down:
            raise DependencyUnavailable("the counter does not answer")
        self._counts[index] += 1
        self.tell(Bumped(index, self._counts[index]))
        return self._counts[index]

    def tell(self, event: Bumped | Heard) -> None:
        for each in () if self.muted else self._followers:
            each.put_nowait(event)

    def hear(self) -> None:
        """Has followers know that they have heard all."""
        self.tell(Heard(time.monotonic()))

    def break_feed(self) -> None:
        for each in self._followers:
            each.put_nowait(None)

    def lose_all(self) -> None:
        """As a store that was wiped."""
        self._counts.clear()

    async def follow(self) -> AsyncIterator[Bumped | Heard]:
        if self.down:
            raise DependencyUnavailable("the counter does not answer")
        queue: asyncio.Queue[Bumped | Heard | None] = asyncio.Queue()
        self._followers.append(queue)
        yield Heard(time.monotonic())
        while (event := await queue.get()) is not None:
            yield event
        self._followers.remove(queue)
        raise DependencyUnavailable("the feed broke")

    async def current(self, index: IndexId) -> int:
        self.asked += 1
        if self.down:
            raise DependencyUnavailable("the counter does not answer")
        return self._counts[index]

    async def claim(self, tenant: str, index: IndexId) -> None:
        self.owned.add((tenant, index))

    async def of(self, tenant: str) -> Sequence[IndexId]:
        return sorted(index for owner, index in self.owned if owner == tenant)

    async def forget(self, tenant: str, index: IndexId) -> None:
        self.owned.discard((tenant, index))
        del self._counts[index]

    async def check(self) -> None:
        """Always answers."""


def vector(values: Sequence[float]) -> bytes:
    return np.asarray(values, "<f4").tobytes()


def direction(seed: str | int, dimension: int = 4) -> list[float]:
    """A vector that depends on the seed alone."""
    random = np.random.default_rng([ord(letter) for letter in str(seed)])
    return [float(value) for value in random.standard_normal(dimension)]


def chunk(text: str = "the quick brown fox", *, document: str = "d1", ordinal: int = 0, **fields: Any) -> Chunk:
    """A chunk with what a test does not care about filled in; `document_fields` are its document's."""
    of_document = DocumentFields(document, **fields.pop("document_fields", {}))
    defaults: dict[str, Any] = {"revision_key": "r1", "chunk_id": f"k{ordinal}"}
    return Chunk(document=of_document, ordinal=ordinal, text=text, **{**defaults, **fields})


def encoded(of: Chunk, dense: Sequence[float] | None = None, *, scale: int | None = None) -> EncodedChunk:
    """The chunk with an English sparse vector, and a dense one that follows from its text unless given."""
    counts = encoder_for("en").counts(of.searched_text)
    used = scale_of(counts.total()) if scale is None else scale
    return EncodedChunk(of, vector(dense or direction(of.text)), document_vector(counts, used), counts.total(), used)


def view(collection_id: str = "docs", **fields: Any) -> CollectionView:
    defaults: dict[str, Any] = {
        "tenant": "acme",
        "uid": IndexId(f"uid-{collection_id}"),
        "embedding_model": "models/fake",
        "language": "en",
        "dimension": 4,
        "sequence": 1,
    }
    return CollectionView(collection_id=collection_id, **{**defaults, **fields})


def hit(of: Chunk, score: float = 1.0, dense: Sequence[float] | None = None, **view_fields: Any) -> Hit:
    """The chunk as a search has found it, with its vector where one is given."""
    return Hit(ScoredChunk(of, score, (), vector=None if dense is None else vector(dense)), view(**view_fields))


def _key(each: EncodedChunk) -> int:
    return each.chunk.key


def _less(chunk: Chunk, left_out: Collection[Part]) -> Chunk:
    if Part.TEXT in left_out:
        chunk = replace(chunk, text="", context="")
    return replace(chunk, document=replace(chunk.document, metadata={})) if Part.METADATA in left_out else chunk


def _cosine(asked: "np.ndarray[Any, Any]", kept: bytes) -> float:
    other = np.frombuffer(kept, "<f4")
    lengths = float(np.linalg.norm(asked) * np.linalg.norm(other))
    return float(asked @ other) / lengths if lengths else 0.0


def _bm25(query: SparseVector, kept: SparseVector, corpus: Any) -> float:
    """Qdrant's sparse score with IDF: ln((N - n + .5) / (n + .5) + 1) over the chunks that have any term."""
    having = [set(each.sparse.indices) for each in corpus if each.sparse.indices]
    weights = dict(zip(kept.indices, kept.values, strict=True))
    score = 0.0
    for index, value in zip(query.indices, query.values, strict=True):
        if index in weights:
            found = sum(index in terms for terms in having)
            score += value * weights[index] * math.log((len(having) - found + 0.5) / (found + 0.5) + 1)
    return score


def _stages(key: int, **rankings: Any) -> tuple[StageScore, ...]:
    return tuple(
        StageScore(stage, score, rank)
        for stage, ranking in rankings.items()
        for rank, (other, score) in enumerate(ranking or [], start=1)
        if other == key
    )


class FakeUsageSink:
    """Figures by batch; may be down, before or after it has kept one."""

    def __init__(self) -> None:
        self.batches: dict[str, list[HourTally]] = {}
        self.sent: list[str] = []
        self.down = False
        self.answers = True

    async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
        self.sent.append(batch_id)
        if self.down:
            raise DependencyUnavailable("system is unavailable")
        self.batches.setdefault(batch_id, list(tallies))
        if not self.answers:
            raise DependencyUnavailable("system was cut off")

    @property
    def tallies(self) -> list[HourTally]:
        return [tally for batch in self.batches.values() for tally in batch]
