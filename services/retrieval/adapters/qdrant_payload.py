"""A chunk as Qdrant's payload, the same for the server and for Edge; keys are the names that filters use."""

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from services.mesh.filters import AllOf, Comparison, Filter, Not, Operator, any_of
from services.retrieval.adapters.qdrant_instants import KEY, instants_of
from services.retrieval.chunks import Chunk, DocumentFields, EncodedChunk, Part

_FIELDS: Final = {
    "title": "title",
    "source_uri": "source_uri",
    "metadata": "metadata",
    "principals": "acl",
    "fence": "fence",
}
"""Payload key of each document field that can be replaced."""

_PARTS: Final = {Part.TEXT: ("text", "context"), Part.METADATA: ("metadata", KEY)}


def payload_of(encoded: EncodedChunk) -> dict[str, Any]:
    chunk, document = encoded.chunk, encoded.chunk.document
    return {
        "document": document.document_id,
        "title": document.title,
        "source_uri": document.source_uri,
        "mime_type": document.mime_type,
        "metadata": dict(document.metadata),
        **({KEY: instants} if (instants := instants_of(document.metadata)) is not None else {}),
        "acl": list(document.principals),
        "content_hash": document.content_hash,
        "revision": document.revision,
        "generation": document.generation,
        "create_time": document.create_time.astimezone(UTC).isoformat() if document.create_time else None,
        "fence": document.fence,
        "revision_key": chunk.revision_key,
        "chunk": chunk.chunk_id,
        "ordinal": chunk.ordinal,
        "text": chunk.text,
        "context": chunk.context,
        "start_offset": chunk.start_offset,
        "end_offset": chunk.end_offset,
        "token_count": chunk.token_count,
        "section": chunk.section,
        "page_number": chunk.page_number,
        "length": encoded.length,
        "scale": encoded.scale,
    }


def keys_of(parts: Collection[Part]) -> list[str]:
    """The payload keys that hold parts of a chunk."""
    return [key for part in sorted(parts) for key in _PARTS[part]]


def chunk_of(payload: Mapping[str, Any]) -> Chunk:
    """The chunk; parts that its payload was read without are empty."""
    created = payload["create_time"]
    return Chunk(
        document=DocumentFields(
            document_id=payload["document"],
            title=payload["title"],
            source_uri=payload["source_uri"],
            mime_type=payload["mime_type"],
            metadata=payload.get("metadata", {}),
            principals=tuple(payload["acl"]),
            content_hash=payload["content_hash"],
            revision=payload["revision"],
            create_time=datetime.fromisoformat(created) if created else None,
            fence=payload.get("fence", 0),  # chunks of older versions have none
            generation=payload.get("generation", 0),  # chunks of an earlier version have none
        ),
        revision_key=payload["revision_key"],
        chunk_id=payload["chunk"],
        ordinal=payload["ordinal"],
        text=payload.get("text", ""),
        context=payload.get("context", ""),
        start_offset=payload["start_offset"],
        end_offset=payload["end_offset"],
        token_count=payload["token_count"],
        section=payload["section"],
        page_number=payload["page_number"],
    )


def fields_payload(fields: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """What replaces fields of a document in its chunks."""
    replaced = {_FIELDS[name]: value for name, value in fields.items()}
    if "metadata" in fields:
        replaced[KEY] = instants_of(fields["metadata"])
    return {**replaced, "generation": generation}


def adjacent_to(chunks: Sequence[Chunk], reach: int) -> Filter:
    """Chunks of the same revisions with ordinals up to `reach` away."""
    return any_of(
        *(
            AllOf(
                (
                    Comparison(("document",), Operator.EQ, each.document.document_id),
                    Comparison(("revision_key",), Operator.EQ, each.revision_key),
                    Comparison(("ordinal",), Operator.GE, float(each.ordinal - reach)),
                    Comparison(("ordinal",), Operator.LE, float(each.ordinal + reach)),
                )
            )
            for each in chunks
        )
    )


def not_beyond(generation: int, document_ids: Sequence[str]) -> Filter:
    """Chunks of the documents that no later generation has written to."""
    named = any_of(*(Comparison(("document",), Operator.EQ, document_id) for document_id in document_ids))
    return AllOf((named, Not(Comparison(("generation",), Operator.GT, float(generation)))))


def searched_text(payload: Mapping[str, Any]) -> str:
    """What the sparse encoder reads, from the parts of a payload that hold it."""
    return f"{payload['context']}\n{payload['text']}" if payload["context"] else str(payload["text"])
