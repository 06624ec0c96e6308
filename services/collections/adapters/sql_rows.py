"""Between records and rows of the registry's tables."""

from dataclasses import asdict
from typing import Any

from services.collections.records import Chunking, Collection, Document, Fusion, Rerank, SearchDefaults, Source


def collection_values(collection: Collection) -> dict[str, Any]:
    """The row of a collection, by column."""
    return {
        "uid": collection.uid,
        "tenant": collection.tenant,
        "collection_id": collection.collection_id,
        "description": collection.description,
        "labels": dict(collection.labels),
        "embedding_model": collection.embedding_model,
        "dimension": collection.dimension,
        "language": collection.language,
        "chunking": asdict(collection.chunking),
        "source": collection.source and asdict(collection.source),
        "disabled": collection.disabled,
        "visibility": collection.visibility,
        "default_search": collection.default_search and asdict(collection.default_search),
        "revision": collection.revision,
        "document_count": collection.document_count,
        "chunk_count": collection.chunk_count,
        "size_bytes": collection.size_bytes,
        "create_time": collection.create_time,
        "update_time": collection.update_time,
        "delete_time": collection.delete_time,
        "purge_time": collection.purge_time,
        "purging": collection.purging,
        "unsettled": collection.unsettled,
        "expire_time": collection.expire_time,
        "etag": collection.etag,
        "sequence": collection.sequence,
    }


def collection_from(row: Any) -> Collection:
    values = dict(row._mapping)
    values["chunking"] = Chunking(**values["chunking"])
    values["source"] = values["source"] and _source(**values["source"])
    values["default_search"] = values["default_search"] and _defaults(**values["default_search"])
    return Collection(**values)


def _source(include_globs: list[str], exclude_globs: list[str], **rest: Any) -> Source:
    return Source(include_globs=tuple(include_globs), exclude_globs=tuple(exclude_globs), **rest)


def _defaults(fusion: dict[str, Any] | None, rerank: dict[str, Any] | None = None, **rest: Any) -> SearchDefaults:
    """As a row has them; one from before there was reranking says nothing of it."""
    return SearchDefaults(
        fusion=Fusion(**fusion) if fusion else None, rerank=Rerank(**rerank) if rerank is not None else None, **rest
    )


def document_values(document: Document) -> dict[str, Any]:
    """The row of a document, by column."""
    return {
        "uid": document.uid,
        "collection_uid": document.collection_uid,
        "document_id": document.document_id,
        "state": document.state,
        "title": document.title,
        "source_uri": document.source_uri,
        "mime_type": document.mime_type,
        "metadata": dict(document.metadata),
        "principals": list(document.principals),
        "content_hash": document.content_hash,
        "size_bytes": document.size_bytes,
        "chunk_count": document.chunk_count,
        "token_count": document.token_count,
        "error": document.error,
        "revision": document.revision,
        "revision_key": document.revision_key,
        "fields_hash": document.fields_hash,
        "source_key": document.source_key,
        "create_time": document.create_time,
        "update_time": document.update_time,
        "delete_time": document.delete_time,
        "etag": document.etag,
        "unsettled": document.unsettled,
        "unsettled_time": document.unsettled_time,
        "patched": document.patched,
        "fence": document.fence,
        "origin": document.origin,
        "purge_time": document.purge_time,
        "purging": document.purging,
        "generation": document.generation,
    }


def document_from(row: Any, collection: Collection) -> Document:
    values = dict(row._mapping)
    values["principals"] = tuple(values["principals"])
    return Document(**values, collection_id=collection.collection_id)
