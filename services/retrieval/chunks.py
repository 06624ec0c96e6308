"""The values of retrieval: documents as chunks carry them, chunks, queries of the index and what they find."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NewType

from services.mesh.filters import EVERYTHING, Filter
from services.retrieval.fusion import DEFAULT_FUSION, Fusion

IndexId = NewType("IndexId", str)
"""The uid of the collection an index belongs to."""


class Distance(StrEnum):
    COSINE = "cosine"
    DOT = "dot"


class Part(StrEnum):
    """What chunks can be read without, for being large: the text with its context, the document's metadata."""

    TEXT = "text"
    METADATA = "metadata"


class Mode(StrEnum):
    """How candidates are found: by meaning, by words, or both fused."""

    HYBRID = "hybrid"
    DENSE = "dense"
    SPARSE = "sparse"


def chunk_key(document_id: str, chunk_id: str) -> int:
    """Names a chunk in its index; chunk ids are unique inside their document only.

    64 bits of BLAKE2b: a million chunks of a collection hold two of the same with a chance of 3 in 10^8. Edge makes an
    object of each UUID it returns, which cost a third of a search.
    """
    return int.from_bytes(hashlib.blake2b(f"{document_id}\0{chunk_id}".encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True, slots=True)
class Rerank:
    """Reordering by a model that reads the query together with each passage.

    Attributes:
        model: Name or bare id; "" for the default one.
        top_n: Hits handed to it; 0 leaves it to the service.
    """

    model: str = ""
    top_n: int = 0


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """What every chunk carries of its document.

    Attributes:
        principals: Who may find it; empty: the whole tenant.
        content_hash: SHA-256 of the original bytes, lower-case hex.
        revision: Counts the imports that changed the document's content.
        fence: Orders those who work on the document one after the other; 0 takes no part in that.
        generation: Counts its deletions and what brought it back; of two writes of its fields the later one's holds.
    """

    document_id: str
    title: str = ""
    source_uri: str = ""
    mime_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = ()
    content_hash: str = ""
    revision: int = 0
    create_time: datetime | None = None
    fence: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage as it is kept.

    Attributes:
        revision_key: Tells the chunks of one revision of the document from those of its others.
        context: Title and headings it was embedded with; searched by words too.
        start_offset: In the document's extracted text, in code points.
        end_offset: Exclusive.
        token_count: By the embedding model, context aside.
        page_number: From 1; 0 where the format has none.
    """

    document: DocumentFields
    revision_key: str
    chunk_id: str
    ordinal: int
    text: str
    context: str = ""
    start_offset: int = 0
    end_offset: int = 0
    token_count: int = 0
    section: str = ""
    page_number: int = 0

    @property
    def key(self) -> int:
        """Names it in its index, in 64 bits."""
        return chunk_key(self.document.document_id, self.chunk_id)

    @property
    def searched_text(self) -> str:
        """What the sparse encoder reads."""
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class SparseVector:
    """Weights by term; indices ascending and unique."""

    indices: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """A chunk with its vectors, ready to be kept.

    Attributes:
        vector: Little-endian float32.
        length: Terms in the searched text; what BM25 averages.
        scale: The average length the sparse weights were made for, as sparse.average_at reads it.
    """

    chunk: Chunk
    vector: bytes
    sparse: SparseVector
    length: int
    scale: int


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """A question to one index.

    Attributes:
        dense: Little-endian float32; None leaves the dense stage out.
        sparse: None leaves the sparse stage out.
        limit: Hits to return.
        depth: Candidates each stage hands to the fusion.
        reference: What the similarity of hits is measured to, little-endian float32; needed by `min_similarity` only.
        min_similarity: Hits of a smaller cosine are left out, before limit; None keeps all.
        exact: Compares with every vector instead of walking the search graph.
        with_vectors: Hands over the vectors of the hits.
        left_out: Parts that the hits are handed over without.
    """

    dense: bytes | None
    sparse: SparseVector | None
    filter: Filter = EVERYTHING
    limit: int = 10
    depth: int = 200
    fusion: Fusion = DEFAULT_FUSION
    reference: bytes | None = None
    min_similarity: float | None = None
    exact: bool = False
    with_vectors: bool = False
    left_out: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class StageScore:
    """Score in the stage's own units, and rank from 1."""

    stage: str
    score: float
    rank: int


@dataclass(frozen=True, slots=True)
class ScoredChunk:
    """A chunk found.

    Attributes:
        measured: Its cosine to the query, where a bound made the store measure it.
        vector: Little-endian float32, where it was asked for.
    """

    chunk: Chunk
    score: float
    stages: tuple[StageScore, ...]
    measured: float | None = None
    vector: bytes | None = None

    @property
    def similarity(self) -> float | None:
        """Its cosine to the query; None where no stage had to know it."""
        dense = (stage.score for stage in self.stages if stage.stage == "dense")
        return next(dense, self.measured)


@dataclass(frozen=True, slots=True)
class Found:
    """Hits, best first.

    Attributes:
        candidates: Different chunks that the stages handed to the fusion.
        by_stage: How many each stage handed to it.
    """

    hits: Sequence[ScoredChunk]
    candidates: int
    by_stage: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Chunks in an index, and how many of them its search graph holds already; the rest are compared one by one."""

    chunks: int
    indexed_chunks: int


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Chunks of an index by the scale of their sparse weights, and the sum of their lengths."""

    chunks: int
    total_length: int
    scales: Mapping[int, int]
