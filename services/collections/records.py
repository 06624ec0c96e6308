"""What the registry keeps: collections, documents, and the answers to requests that may be repeated."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, ClassVar, Final, TypeVar

from pydantic import ConfigDict, TypeAdapter

from services.mesh.filters import Comparison, Field, FieldType, Filter, Has, Operator, Schema, any_of, negate
from services.mesh.lists import Listing
from services.mesh.quotas import Amounts

T = TypeVar("T")

VISIBILITIES: Final = ("PRIVATE", "PUBLIC")
STATES: Final = ("PENDING", "ACTIVE", "FAILED")
DELETED: Final = "DELETED"

# No vowels and nothing that looks like something else: short, easy to read out, spells nothing.
_ID_ALPHABET: Final = "23456789bcdfghjkmnpqrstvwxz"


@dataclass(frozen=True, slots=True)
class Chunking:
    """How documents are cut; 0 tokens take the service's default."""

    strategy: str = "STRUCTURE"
    max_tokens: int = 0
    overlap_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A directory the collection follows."""

    directory: str = ""
    include_globs: tuple[str, ...] = ()
    exclude_globs: tuple[str, ...] = ()
    auto_sync: bool = False


@dataclass(frozen=True, slots=True)
class Fusion:
    """How rankings are merged: "RRF" with its parameters, or "DBSF"."""

    method: str = "RRF"
    k: int = 0
    dense_weight: float = 0.0
    sparse_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class Rerank:
    """Reordering by a model; "" and 0 leave it to the service."""

    model: str = ""
    top_n: int = 0


@dataclass(frozen=True, slots=True)
class SearchDefaults:
    """What searches use for what they leave unset; zero values leave it to the service."""

    top_k: int = 0
    mode: str = ""
    fusion: Fusion | None = None
    min_score: float = 0.0
    rerank: Rerank | None = None


@dataclass(frozen=True, slots=True)
class Collection:
    """Documents that are searched together.

    Attributes:
        embedding_model: `models/{model}`.
        dimension: Length of the model's vectors.
        revision: Counts the writes that searches can see, as the registry recorded them.
        size_bytes: Bytes of the originals of its documents.
        delete_time: Deletion was decided then; searches find nothing of it.
        purge_time: When a deleted one goes for good; until then it can come back.
        purging: It is going, and cannot come back.
        unsettled: Its deletion, or what took that back, may not have reached the index yet.
        etag: Changes with every change but of counts.
        sequence: The registry's own count of changes at the last one of this collection.
    """

    tenant: str
    collection_id: str
    uid: str
    embedding_model: str
    dimension: int
    language: str
    create_time: datetime
    update_time: datetime
    etag: str
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    chunking: Chunking = Chunking()
    source: Source | None = None
    disabled: bool = False
    visibility: str = "PRIVATE"
    default_search: SearchDefaults | None = None
    revision: int = 0
    document_count: int = 0
    chunk_count: int = 0
    size_bytes: int = 0
    delete_time: datetime | None = None
    expire_time: datetime | None = None
    sequence: int = 0
    purge_time: datetime | None = None
    purging: bool = False
    unsettled: bool = False

    @property
    def name(self) -> str:
        return f"collections/{self.collection_id}"


@dataclass(frozen=True, slots=True)
class Change:
    """A recorded change of a collection.

    Attributes:
        kind: Such as "collection.created".
        collection: As it was after it; its sequence is the change's.
    """

    kind: str
    time: datetime
    collection: Collection

    @classmethod
    def of(cls, before: Collection | None, after: Collection) -> "Change":
        """The change that made `after` of `before`, now."""
        if before is None:
            kind = "collection.created"
        elif after.delete_time:
            kind = "collection.deleted"
        else:
            kind = "collection.undeleted" if before.delete_time else "collection.updated"
        return cls(kind, now(), after)


@dataclass(frozen=True, slots=True)
class Document:
    """One source text of a collection.

    Attributes:
        principals: Who may find it; none: the whole tenant.
        error: Why the last import failed, a serialised google.rpc.Status; empty where it did not.
        revision_key: Tells the chunks of this revision from others; the importer's.
        fields_hash: Tells whether an import would change the fields; the importer's.
        source_key: The import source it belongs to.
        origin: What its import knew of the original besides; the importer's.
        delete_time: Deletion was decided then; the index hides its chunks.
        purge_time: When a deleted one goes for good; until then it can come back.
        purging: It is going, and cannot come back.
        generation: Counts its deletions and what brought it back: an older push to the index is passed over there.
        unsettled: Pushes to the index that were begun and not ended; above 0, the index may differ.
        unsettled_time: When the last of them was begun.
        patched: Its fields were changed since its last import.
        fence: Orders those who import it, one after the other; of the last one.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    collection_uid: str
    collection_id: str
    document_id: str
    uid: str
    state: str
    create_time: datetime
    update_time: datetime
    etag: str
    title: str = ""
    source_uri: str = ""
    mime_type: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = ()
    content_hash: str = ""
    size_bytes: int = 0
    chunk_count: int = 0
    token_count: int = 0
    error: bytes = b""
    revision: int = 0
    revision_key: str = ""
    fields_hash: str = ""
    source_key: str = ""
    delete_time: datetime | None = None
    unsettled: int = 0
    unsettled_time: datetime | None = None
    patched: bool = False
    fence: int = 0
    origin: str = ""
    purge_time: datetime | None = None
    purging: bool = False
    generation: int = 0

    @property
    def name(self) -> str:
        return f"collections/{self.collection_id}/documents/{self.document_id}"

    def unlike(self, other: "Document") -> bool:
        """Whether searches would see other fields in `other`, its content aside."""
        return (self.title, self.source_uri, self.metadata, self.principals) != (
            other.title,
            other.source_uri,
            other.metadata,
            other.principals,
        )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a document, as the index keeps it."""

    chunk_id: str
    ordinal: int
    text: str
    start_offset: int
    end_offset: int
    token_count: int
    section: str
    page_number: int
    context: str = ""


@dataclass(frozen=True, slots=True)
class DocumentTotals:
    """What the documents of a collection add up to; `hidden_chunks` are those of deleted ones, which can come back."""

    active: int = 0
    pending: int = 0
    failed: int = 0
    tokens: int = 0
    size_bytes: int = 0
    last_write_time: datetime | None = None
    hidden_chunks: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What a change of documents adds to their collection's counts."""

    documents: int = 0
    chunks: int = 0
    size_bytes: int = 0
    revision: int = 0

    @classmethod
    def of(cls, before: Sequence[Document | None], after: Sequence[Document | None]) -> "Delta":
        """The difference; what searches can see counts one revision, however many documents changed."""
        visible = any(old != new and _searchable(old, new) for old, new in zip(before, after, strict=True))
        return cls(
            documents=sum(map(_counts, after)) - sum(map(_counts, before)),
            chunks=sum(map(_chunks, after)) - sum(map(_chunks, before)),
            size_bytes=sum(map(_bytes, after)) - sum(map(_bytes, before)),
            revision=int(visible),
        )

    @property
    def amounts(self) -> Amounts:
        """What it adds to the tenant's."""
        return Amounts(documents=self.documents, chunks=self.chunks, storage_bytes=self.size_bytes)

    def added_to(self, collection: Collection) -> Collection:
        return replace(
            collection,
            document_count=collection.document_count + self.documents,
            chunk_count=collection.chunk_count + self.chunks,
            size_bytes=collection.size_bytes + self.size_bytes,
            revision=collection.revision + self.revision,
        )


def _counts(document: Document | None) -> bool:
    return document is not None and document.delete_time is None


def _chunks(document: Document | None) -> int:
    return document.chunk_count if document and _counts(document) and document.state == "ACTIVE" else 0


def _bytes(document: Document | None) -> int:
    return document.size_bytes if document and _counts(document) else 0


def _searchable(old: Document | None, new: Document | None) -> bool:
    """Whether a search may tell the two apart, given that they differ."""
    if _chunks(old) != _chunks(new):
        return True
    if not _chunks(old) or old is None or new is None:
        return False
    return old.unlike(new) or (old.content_hash, old.revision_key) != (new.content_hash, new.revision_key)


_COLLECTION_FIELDS: Final = {
    "name": Field(FieldType.STRING, ordered=True),
    "description": Field(FieldType.STRING, ordered=True),
    "labels": Field(FieldType.MAP),
    "embedding_model": Field(FieldType.STRING, ordered=True),
    "language": Field(FieldType.STRING, ordered=True),
    "visibility": Field(FieldType.ENUM, values=VISIBILITIES),
    "disabled": Field(FieldType.BOOL),
    "create_time": Field(FieldType.TIMESTAMP),
    "update_time": Field(FieldType.TIMESTAMP),
}

COLLECTIONS: Final = Listing(Schema(_COLLECTION_FIELDS), sortable=("name", "create_time", "update_time"), key="name")

# Among deleted ones a name may come several times.
COLLECTIONS_AND_DELETED: Final = Listing(
    Schema({**_COLLECTION_FIELDS, "uid": Field(FieldType.STRING), "delete_time": Field(FieldType.TIMESTAMP)}),
    sortable=(*COLLECTIONS.sortable, "uid"),
    key="uid",
    default_order="name",
)

DOCUMENTS: Final = Listing(
    Schema(
        {
            "name": Field(FieldType.STRING, ordered=True),
            "title": Field(FieldType.STRING, ordered=True),
            "source_uri": Field(FieldType.STRING, ordered=True),
            "mime_type": Field(FieldType.STRING, ordered=True),
            "content_hash": Field(FieldType.STRING, ordered=True),
            "state": Field(FieldType.ENUM, values=(*STATES, DELETED)),
            "metadata": Field(FieldType.STRUCT),
            "size_bytes": Field(FieldType.NUMBER),
            "chunk_count": Field(FieldType.NUMBER),
            "create_time": Field(FieldType.TIMESTAMP),
            "update_time": Field(FieldType.TIMESTAMP),
        }
    ),
    sortable=("name", "title", "size_bytes", "chunk_count", "create_time", "update_time"),
    key="name",
)

CHUNKS: Final = Listing(Schema({"ordinal": Field(FieldType.NUMBER)}), sortable=("ordinal",), key="ordinal")


def collection_fields(collection: Collection) -> Mapping[str, Any]:
    """What filters and orders of collections look at, by field name."""
    return {
        "name": collection.name,
        "description": collection.description,
        "labels": collection.labels,
        "embedding_model": collection.embedding_model,
        "language": collection.language,
        "visibility": collection.visibility,
        "disabled": collection.disabled,
        "create_time": collection.create_time,
        "update_time": collection.update_time,
        "uid": collection.uid,
        "delete_time": collection.delete_time,
    }


def document_fields(document: Document) -> Mapping[str, Any]:
    """What filters and orders of documents look at, by field name; and the ACL, which only `readable_by` asks for."""
    return {
        "name": document.name,
        "title": document.title,
        "source_uri": document.source_uri,
        "mime_type": document.mime_type,
        "content_hash": document.content_hash,
        "state": DELETED if document.delete_time else document.state,
        "metadata": document.metadata,
        "size_bytes": document.size_bytes,
        "chunk_count": document.chunk_count,
        "create_time": document.create_time,
        "update_time": document.update_time,
        "principals": list(document.principals),
    }


def readable_by(principals: frozenset[str]) -> Filter:
    """Documents open to the whole tenant, or to one of these principals."""
    granted = [Comparison(("principals",), Operator.EQ, each) for each in sorted(principals)]
    return any_of(negate(Has(("principals",))), *granted)


def amounts_of(collection: Collection | None) -> Amounts:
    """What a collection counts for; nothing from the moment it is deleted."""
    if collection is None or collection.delete_time is not None:
        return Amounts()
    return Amounts(1, collection.document_count, collection.chunk_count, collection.size_bytes)


def now() -> datetime:
    return datetime.now(UTC)


def new_etag() -> str:
    return f'"{secrets.token_hex(8)}"'


def new_id(prefix: str, length: int = 12) -> str:
    """An id made up: `prefix` and random characters, short and readable."""
    return f"{prefix}-{''.join(secrets.choice(_ID_ALPHABET) for _ in range(length))}"


def encode(result: object) -> bytes:
    """A record, or a tuple of them, as JSON."""
    kind: Any = tuple[type(result[0]), ...] if isinstance(result, tuple) and result else type(result)  # type: ignore[misc]
    return _codec(kind).dump_json(result)


def decode(kind: type[T], content: bytes) -> T:
    """What `encode` was given, of this type."""
    described: Any = kind
    found: T = _codec(described).validate_json(content)
    return found


@cache
def _codec(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
