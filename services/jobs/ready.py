"""Chunks that a caller has cut, and perhaps embedded: how they are kept, and what of them holds in a collection."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from services.jobs.chunker import Chunk
from services.jobs.extraction import ExtractedText
from services.jobs.ports import Collection
from services.jobs.ports_content import Tokenizer
from services.mesh.errors import FailedPrecondition, InvalidArgument, UnreadableDocument

READY_TYPE = "application/vnd.ragweave.chunks"
# Raise it whenever the same content gives other chunks.
READY_VERSION = "ready-1"
_MAX_CHUNKS = 2000
_MAX_TEXT_BYTES = 65536
_MAX_CONTEXT = 4096
_BETWEEN = "\n\n"
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class ReadyChunk:
    """A chunk; its vector as little-endian float32 of length 1, or b"" to be embedded here."""

    text: str
    context: str = ""
    vector: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class ReadyChunks:
    """A document's chunks in order; `model` is the one their vectors are of."""

    chunks: Sequence[ReadyChunk]
    model: str = ""

    def packed(self) -> bytes:
        """As the blob store keeps it: the same chunks give the same bytes."""
        return bytes(msgpack.packb([self.model, [[each.text, each.context, each.vector] for each in self.chunks]]))

    @classmethod
    def unpacked(cls, content: bytes, name: str) -> "ReadyChunks":
        """Raises UnreadableDocument for what `packed` has not made: anybody may upload anything under this type."""
        try:
            model, chunks = msgpack.unpackb(content)
            made = [ReadyChunk(text, context, vector) for text, context, vector in chunks]
            if not isinstance(model, str) or not 0 < len(made) <= _MAX_CHUNKS:
                raise ValueError
            return cls([_checked(each) for each in made], model)
        except (ValueError, TypeError, msgpack.UnpackException, UnicodeError):
            raise UnreadableDocument(f"{name}: it is said to be {READY_TYPE}, and is not") from None

    def of(self, collection: Collection, field: str) -> "ReadyChunks":
        """As made for a collection, and its model. Raises InvalidArgument naming a vector of another dimension."""
        for at, each in enumerate(self.chunks):
            dimension = len(each.vector) // _FLOAT_BYTES
            if dimension and collection.dimension and dimension != collection.dimension:
                raise InvalidArgument.of(
                    f"{field}.chunks[{at}].vector",
                    f"has {dimension} dimensions, the collection's vectors have {collection.dimension}",
                )
        return replace(self, model=collection.embedding_model)

    def vectors(self, collection: Collection, dimension: int, name: str) -> Mapping[int, bytes]:
        """The vectors that hold in a collection, by ordinal: none where its model is another by now.

        Raises:
            FailedPrecondition: the model gives vectors of another dimension.
        """
        if self.model != collection.embedding_model:
            return {}
        given = {at: each.vector for at, each in enumerate(self.chunks) if each.vector}
        for vector in given.values():
            if len(vector) != dimension * _FLOAT_BYTES:
                raise FailedPrecondition(
                    f"{name}: its vectors have {len(vector) // _FLOAT_BYTES} dimensions, the collection's {dimension}"
                )
        return given

    def text(self) -> ExtractedText:
        return ExtractedText(_BETWEEN.join(each.text for each in self.chunks), READY_TYPE)

    def cut(self, tokenizer: Tokenizer) -> list[Chunk]:
        """Blocking, for what the tokenizer takes."""
        chunks, start = [], 0
        for at, each in enumerate(self.chunks):
            chunks.append(Chunk(at, each.text, start, start + len(each.text), 0, context=each.context))
            start += len(each.text) + len(_BETWEEN)
        counts = tokenizer.counts([chunk.embed_text for chunk in chunks])
        return [replace(chunk, token_count=count) for chunk, count in zip(chunks, counts, strict=True)]


def unit_vector(values: Sequence[float], field: str) -> bytes:
    """A vector at length 1, packed. Raises InvalidArgument where a value is not finite, or all are zero."""
    try:
        return _unit(np.asarray(values, np.float64))
    except ValueError as error:
        raise InvalidArgument.of(field, str(error)) from None


def _unit(values: Any) -> bytes:
    if not len(values):
        return b""
    if not np.isfinite(values).all():
        raise ValueError("holds a number that is not finite")
    largest = np.abs(values).max()
    if not largest:
        raise ValueError("is all zero, and so has no direction")
    scaled = values / largest  # neither too small nor too large to be squared
    return bytes((scaled / np.linalg.norm(scaled)).astype("<f4").tobytes())


def _checked(chunk: ReadyChunk) -> ReadyChunk:
    if not isinstance(chunk.text, str) or not isinstance(chunk.context, str) or not isinstance(chunk.vector, bytes):
        raise TypeError
    if not chunk.text.strip() or len(chunk.text.encode()) > _MAX_TEXT_BYTES or len(chunk.context) > _MAX_CONTEXT:
        raise ValueError
    return replace(chunk, vector=_unit(np.frombuffer(chunk.vector, "<f4").astype(np.float64)))
