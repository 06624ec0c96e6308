"""What retrieval needs of others: an index of chunks, vectors for queries, the registry, a counter of writes."""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from services.mesh.errors import DomainError
from services.mesh.filters import Filter, Path
from services.retrieval.chunks import (
    Chunk,
    Distance,
    EncodedChunk,
    Found,
    IndexId,
    IndexStats,
    LengthStats,
    Part,
    SparseVector,
    VectorQuery,
)
from services.retrieval.collection import Changes, CollectionView
from services.retrieval.results import Asked, Entry
from services.retrieval.tally import HourTally
from services.retrieval.values import Counts

# What the breaker of any VectorStore is known by.
VECTOR_STORE: Final = "vector store"


@dataclass(frozen=True, slots=True)
class UnscaledChunk:
    """A chunk whose sparse weights are to be made anew.

    Attributes:
        key: The store's own id of the chunk.
        text: What the sparse encoder reads.
    """

    key: str
    text: str


class VectorStore(Protocol):
    """Chunks by id, found by nearness; one index per collection.

    A write is durable when it returns: it survives SIGKILL of every process. It is idempotent, so a write that failed
    may be repeated. Reads of an index that does not exist find nothing.

    Raises:
        DependencyUnavailable: The store does not answer, or was lost while it worked.
        IndexFailed: It answers, but failed at this.
    """

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        """Creates the index unless it exists.

        Raises:
            FailedPrecondition: It exists with another dimension or distance.
        """
        ...

    async def drop(self, index: IndexId) -> None:
        """Deletes the index and all it holds; nothing happens where there is none."""
        ...

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        """Keeps the chunks; those with the same document and chunk id are replaced.

        Raises:
            LookupError: There is no such index.
        """
        ...

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        """Deletes every chunk of the documents."""
        ...

    async def retire(self, index: IndexId, document_id: str, keep_revision_key: str) -> None:
        """Deletes the document's chunks of every other revision."""
        ...

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        """Replaces fields of all chunks of documents: title, source_uri, metadata, principals, fence, each whole.

        Args:
            generation: Noted with the chunks; those of a later one stay as they are.
        """
        ...

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        """The chunks nearest to the query that its filter lets through, in one round trip."""
        ...

    async def fetch(
        self, index: IndexId, keys: Sequence[int], chosen: Filter, left_out: Collection[Part] = ()
    ) -> Mapping[int, Chunk]:
        """Chunks by key, of those that there are and the filter lets through, without the parts that are left out."""
        ...

    async def vectors(self, index: IndexId, chosen: Filter, limit: int) -> Sequence[bytes]:
        """Dense vectors, little-endian float32, of some of the chunks that the filter lets through."""
        ...

    async def list_chunks(self, index: IndexId, document_id: str, from_ordinal: int, limit: int) -> Sequence[Chunk]:
        """Chunks of a document with from_ordinal <= ordinal < from_ordinal + limit, by ordinal."""
        ...

    async def adjacent(self, index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
        """The chunks of the same revisions with ordinals up to `reach` away, of those that the filter lets through.

        In one round trip, in any order, each once and without its metadata; which of the chunks given are among them is
        left open.
        """
        ...

    async def count_values(self, index: IndexId, paths: Sequence[Path], chosen: Filter) -> Counts:
        """By path below the metadata, how many of the chunks that the filter lets through have each value there.

        As ValueCounter counts them, and all of them; an index that is written to meanwhile is counted part by part.
        """
        ...

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        """Chunks of the index; of one document; of one of its revisions; of higher fences than `above`."""
        ...

    async def stats(self, index: IndexId) -> IndexStats:
        """Sizes of the index."""
        ...

    async def length_stats(self, index: IndexId) -> LengthStats:
        """Lengths and scales of all chunks, counted when asked."""
        ...

    async def of_scales(self, index: IndexId, scales: Collection[int], limit: int) -> Sequence[UnscaledChunk]:
        """Some chunks whose sparse weights have one of these scales, found without looking at the others."""
        ...

    async def rescale(self, index: IndexId, scale: int, vectors: Mapping[str, SparseVector]) -> None:
        """Replaces sparse weights by the chunk's key and notes their scale; chunks gone meanwhile are passed over."""
        ...

    async def check(self) -> None:
        """Returns when the store answers."""
        ...


@dataclass(frozen=True, slots=True)
class PassageScores:
    """The score of each passage, in order, and the name of the model that gave them; more is better."""

    model: str
    scores: Sequence[float]


class PassageReranker(Protocol):
    """Scores passages by how well they answer a query."""

    async def rerank(self, model: str, query: str, passages: Sequence[str]) -> PassageScores:
        """The scores of the passages.

        Args:
            model: Name or bare id; "" for the default one.

        Raises:
            ModelNotFound: There is no such reranking model; names those there are.
            FailedPrecondition: There is none at all.
            DependencyUnavailable: Whoever runs it does not answer; named.
            DeadlineExceeded: It has not answered in time.
            TooManyRequests: Too many passages wait already.
        """
        ...


@dataclass(frozen=True, slots=True)
class QueryEmbedding:
    """A query's vector, little-endian float32, and the tokens it was made of."""

    vector: bytes
    token_count: int


class QueryEmbedder(Protocol):
    """Vectors for queries."""

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        """The vector of a query by the model, on behalf of the caller.

        Raises:
            TextTooLong: The query is longer than the model takes.
            DependencyUnavailable, DeadlineExceeded, TooManyRequests, ModelNotFound: There is no vector now.
        """
        ...

    async def embed_each(self, model: str, texts: Sequence[str]) -> Sequence[QueryEmbedding | DomainError]:
        """The vector of each query, in one pass, or why there is none: one that is too long fails alone."""
        ...


class Registry(Protocol):
    """The owner of collections, as retrieval sees it."""

    async def get(self, collection_id: str) -> CollectionView | None:
        """The collection of the caller's tenant as it now is; None where there is none."""
        ...

    def watch(self, after_sequence: int) -> AsyncGenerator[Changes, None]:
        """Every collection once (from 0) or what changed after a sequence, then each change.

        Raises:
            DependencyUnavailable: The only way it ends.
        """
        ...


class IndexRevisions(Protocol):
    """Counts the writes of each index, and knows whose it is, for all replicas.

    Raises:
        DependencyUnavailable: The counter does not answer.
    """

    async def claim(self, tenant: str, index: IndexId) -> None:
        """Notes whose index it is, before there is one; durable when it returns."""
        ...

    async def of(self, tenant: str) -> Sequence[IndexId]:
        """Every index that was ever claimed for the tenant, and not forgotten."""
        ...

    async def forget(self, tenant: str, index: IndexId) -> None:
        """Drops what is known of an index."""
        ...

    async def bump(self, index: IndexId) -> int:
        """The next revision; durable when it returns."""
        ...

    async def current(self, index: IndexId) -> int:
        """The revision of the last write; 0 before the first."""
        ...

    async def check(self) -> None:
        """Returns when the counter answers."""
        ...


@dataclass(frozen=True, slots=True)
class Bumped:
    """An index has come to a revision."""

    index: IndexId
    revision: int


@dataclass(frozen=True, slots=True)
class Heard:
    """Whatever was bumped before `at_s`, by time.monotonic(), has been told."""

    at_s: float


class RevisionFeed(Protocol):
    """The bumps of all replicas, as they are made."""

    def follow(self) -> AsyncIterator[Bumped | Heard]:
        """Every bump from the first event on, in order, and several times a second how far that goes.

        Raises:
            DependencyUnavailable: The only way it ends; bumps may be missed from then on.
        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """A search that was made and can be made again.

    Attributes:
        request: As it was sent, but for what tells how to come by the answer.
        indexes: Those it is of.
        principals: Of who asked, sorted; none without a token.
    """

    request: bytes
    indexes: tuple[IndexId, ...]
    principals: tuple[str, ...]


class Questions(Protocol):
    """How often what was asked, for all replicas: the most frequent of the last time, and none for longer."""

    async def add(self, counts: Mapping[str, Mapping[Question, int]]) -> None:
        """Counts questions by tenant; where the store does not answer, they are lost."""
        ...

    async def most_asked(self, tenant: str, index: IndexId | None, limit: int) -> list[Question]:
        """The tenant's, or those that an index has part in, the most frequent first.

        Raises:
            DependencyUnavailable: The store does not answer.
        """
        ...

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        """Drops the tenant's, or those that an index has part in; returns how many different ones.

        Raises:
            DependencyUnavailable: The store does not answer.
        """
        ...


class SharedResults(Protocol):
    """Answers that all replicas share. What is not there, not whole or not in time is none: nothing fails for it.

    Attributes:
        down: Why it does not answer; empty while it does.
    """

    @property
    def down(self) -> str: ...

    async def get(self, asked: Asked) -> Entry | None:
        """The answer to what is asked, of whichever revisions."""
        ...

    def put(self, entry: Entry) -> None:
        """Keeps it soon, instead of what is kept for the same question; nobody waits for that."""
        ...

    async def drop(self, tenant: str, index: IndexId | None) -> int:
        """Drops the tenant's answers, or those of them that an index has part in; returns how many.

        Raises:
            DependencyUnavailable: The store does not answer.
        """
        ...


class UsageSink(Protocol):
    async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
        """Keeps figures; those that come again under the same id within two days count once.

        Raises:
            DependencyUnavailable: They may have been kept, or not.
        """
        ...
