"""How documents of a collection become chunks: which model counts, which settings hold, what tells revisions apart."""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.jobs.chunker import DEFAULT_MAX_TOKENS, Chunk, Chunker
from services.jobs.extraction import ExtractedText
from services.jobs.job import DocumentSpec
from services.jobs.ports import Collection, EmbeddingModel, Models

# Raise it whenever the same text and settings give other chunks.
_CHUNKING_VERSION = 1
_KEY_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Cutting:
    """How one collection's documents are cut now."""

    collection: Collection
    model: EmbeddingModel
    max_tokens: int

    @classmethod
    async def of(cls, collection: Collection, models: Models) -> "Cutting":
        """A collection that leaves the size to us gets our default; no chunk is larger than its model takes."""
        model = await models.model(collection.embedding_model)
        wanted = collection.max_tokens or DEFAULT_MAX_TOKENS
        return cls(collection, model, min(wanted, model.max_tokens or wanted))

    async def chunks(self, text: ExtractedText, title: str) -> list[Chunk]:
        """Cut in a thread: a megabyte takes about half a second."""
        chunker = Chunker(
            self.model.tokenizer, self.max_tokens, self.collection.overlap_tokens, self.collection.strategy
        )
        return await asyncio.to_thread(chunker.chunk, text, title=title)

    def revision_key(self, content_hash: str, text_version: str) -> str:
        """The same for the same bytes, read, cut and embedded the same way; of no others."""
        return digest(
            content_hash,
            text_version,
            _CHUNKING_VERSION,
            str(self.collection.strategy),
            self.max_tokens,
            self.collection.overlap_tokens,
            self.model.name,
            self.model.revision,
        )


def fields_hash(spec: DocumentSpec, source_key: str) -> str:
    """The same while what was said of a document, its content aside, stays the same."""
    return digest(
        spec.title, spec.source_uri, spec.mime_type, sorted(spec.principals), _plain(spec.metadata), source_key
    )


def chunk_id(revision_key: str, ordinal: int) -> str:
    """The same content, cut the same way, has the same chunk ids; two revisions of a document share none."""
    return f"{revision_key[:12]}-{ordinal:05d}"


def digest(*parts: Any) -> str:
    packed = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(packed.encode("utf-8", "surrogatepass")).hexdigest()[:_KEY_DIGITS]


def _plain(value: Any) -> Any:
    """JSON values with every number a double, as protobuf has them: 1 and 1.0 are one value."""
    match value:
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case str() | bool() | None:
            return value
        case int() | float():
            return float(value)
        case Sequence():
            return [_plain(each) for each in value]
    return str(value)
