"""What the registry needs of the world: a store of its own, the index, the models, and jobs that import."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

from services.collections.entries import Entry, FoundRoot
from services.collections.records import Change, Chunk, Collection, Document, DocumentTotals
from services.mesh.filters import Filter
from services.mesh.lists import ListQuery, Page
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt

T = TypeVar("T")

# Given what there is (deleted documents among it), what there shall be, by id:
# None removes; what is left out stays. May raise, and then nothing changes.
ChangeDocuments: TypeAlias = Callable[[Mapping[str, Document]], Mapping[str, Document | None]]
ChangeCollection: TypeAlias = Callable[[Collection | None], Collection]
# Given the collection that has the id now, and the deleted ones that had it, the latest first, the one that comes back.
RestoreCollection: TypeAlias = Callable[[Collection | None, Sequence[Collection]], Collection]


class RegistryStore(Protocol):
    """Collections and documents, their changes and the answers given, in one database.

    Every method is one transaction. A change is durable when it returns, and is seen whole or not at all. Deleted
    collections and documents, whose rows stay until they are purged, are not found unless a method says so.

    Raises:
        DependencyUnavailable: The database does not answer.
    """

    async def find_collection(self, tenant: str, collection_id: str) -> Collection | None: ...

    async def list_collections(self, tenant: str, query: ListQuery, *, deleted: bool = False) -> Page[Collection]:
        """A page of collections; with `deleted`, of those too that can come back."""
        ...

    async def write_collection(
        self,
        tenant: str,
        collection_id: str,
        change: ChangeCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        """Reads a collection, writes what `change` makes of it, and its event and receipt with it.

        No other change comes between. An unchanged collection is not written and makes no event.

        Args:
            limits: What the tenant may keep; one writer of the tenant after the other is held to it.

        Returns:
            The collection as written, its sequence set; or what an earlier request with the receipt was answered.

        Raises:
            QuotaExceeded: The change does not fit into the limits.
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def restore_collection(
        self,
        tenant: str,
        collection_id: str,
        change: RestoreCollection,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Collection:
        """As `write_collection`, of a collection that was deleted."""
        ...

    async def settle_collection(self, collection: Collection) -> None:
        """Notes that the index holds this state of the collection; nothing happens where it has another by now."""
        ...

    async def begin_purge(self, uid: str) -> bool:
        """Decides that a deleted collection never comes back; whether it is one that is deleted."""
        ...

    async def purge_collection(self, uid: str) -> None:
        """Removes a collection and its documents, once its purge has begun."""
        ...

    async def deleted_collections(self, tenant: str, collection_id: str | None = None) -> list[Collection]:
        """Deleted collections (of an id) whose rows are still here, those deleted last first."""
        ...

    async def collections_to_purge(self, before: datetime) -> list[Collection]:
        """Deleted collections whose purge_time came before."""
        ...

    async def unsettled_collections(self, before: datetime) -> list[Collection]:
        """Collections whose deletion, or what took it back, was decided before, and may not hold in the index."""
        ...

    async def expired_collections(self, at: datetime) -> list[Collection]:
        """Collections whose expire_time has come."""
        ...

    async def latest(self, after: int, limit: int) -> list[Collection]:
        """Collections whose last change comes after `after`, in the order of their sequence."""
        ...

    async def changes(self, after: int, limit: int) -> list[Change]:
        """Every recorded change after `after`, deletions included, in order."""
        ...

    async def last_sequence(self) -> int:
        """No change so far has a higher sequence, every change to come has; 0 before the first."""
        ...

    async def find_documents(
        self, collection: Collection, document_ids: Sequence[str], *, deleted: bool = False
    ) -> list[Document]:
        """Those of the documents that exist, in no order; with `deleted`, deleted ones instead."""
        ...

    async def find_contents(self, tenant: str, content_hashes: Iterable[str]) -> set[str]:
        """Those of the contents that documents of the tenant have, deleted ones included."""
        ...

    async def list_documents(
        self, collection: Collection, query: ListQuery, *, deleted: bool = False
    ) -> Page[Document]:
        """A page of documents; with `deleted`, of those too that can come back."""
        ...

    async def write_documents(
        self,
        collection: Collection,
        document_ids: Sequence[str],
        change: ChangeDocuments,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> tuple[Document, ...]:
        """Reads documents, writes what `change` makes of them, the collection's counts and the receipt with it.

        No other change of the collection's documents comes between.

        Args:
            limits: What the tenant may keep; one writer of the tenant after the other is held to it.

        Returns:
            The documents there are afterwards, in the order of the ids; or what an earlier request with the receipt
            was answered.

        Raises:
            CollectionNotFound: There is no such collection now, by its uid.
            QuotaExceeded: The change does not fit into the limits.
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def list_source_documents(self, collection: Collection, source_key: str, after: str, limit: int) -> list[str]:
        """Ids of a source's documents beyond `after`, in order."""
        ...

    async def select_documents(self, collection: Collection, filter: Filter, after: str, limit: int) -> list[Document]:
        """Documents that match, beyond the id `after`, in the order of their ids."""
        ...

    async def count_documents(self, collection: Collection, filter: Filter) -> int:
        """How many documents match."""
        ...

    async def unfinished_documents(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        """Documents, deleted ones too, that are unsettled since before a time, of collections that exist."""
        ...

    async def pending_documents(
        self, before: datetime, after_uid: str, limit: int
    ) -> list[tuple[Collection, Document]]:
        """Documents, by uid beyond that one, that are PENDING and have not changed since, of collections that exist."""
        ...

    async def documents_to_purge(self, before: datetime, limit: int) -> list[tuple[Collection, Document]]:
        """Deleted documents whose purge_time came before, of collections that exist."""
        ...

    async def totals(self, collection: Collection) -> DocumentTotals: ...

    async def usage(self, tenant: str) -> Amounts:
        """What the tenant's collections add up to."""
        ...

    async def sizes(self, largest: int) -> tuple[Amounts, dict[str, Amounts]]:
        """What all live collections of all tenants add up to, and the largest so many of them by uid: most chunks."""
        ...

    async def recall(self, receipt: Receipt, kind: type[T]) -> T | None:
        """What an earlier request with the receipt was answered; None where there was none.

        Raises:
            RequestIdReused: It is known with another digest.
        """
        ...

    async def remember(self, receipt: Receipt, result: T, kind: type[T]) -> T:
        """Keeps an answer that came with no change of this request's own; the recorded one where there is one already.

        Raises:
            RequestIdReused: It is known with another digest.
        """
        ...

    async def forget(self, receipt: Receipt) -> None:
        """Drops an answer that was taken back."""
        ...

    async def prune_receipts(self, at: datetime) -> int:
        """Drops answers that have expired; returns how many."""
        ...

    async def erase(self, tenant: str, *, before: datetime, limit: int) -> tuple[int, bool]:
        """Drops answers, and events older than `before`, of a tenant, at most so many of each.

        Returns:
            How many that were, and whether more are there, events too young among them.
        """
        ...

    async def compact(self) -> bool:
        """Whether what was deleted is in none of the store's own files any more, by what this call could do."""
        ...

    async def check(self) -> None:
        """Raises unless the database answers."""
        ...


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Sizes of an index: chunks in it, and those already in the search graph."""

    chunks: int
    indexed_chunks: int


class Index(Protocol):
    """The index of each collection, which searches read. Every method may be repeated.

    Raises:
        DependencyUnavailable: The index does not answer.
    """

    async def apply(self, collection: Collection) -> None:
        """Makes the collection as it now is hold in every search that begins afterwards."""
        ...

    async def drop(self, collection: Collection) -> None: ...

    async def stats(self, collection: Collection) -> IndexStats:
        """Sizes; zeros where nothing was ever written."""
        ...

    async def hide(self, collection: Collection, documents: Sequence[Document]) -> None:
        """No search that begins afterwards finds them, until `update_fields` of a later generation."""
        ...

    async def delete_documents(self, collection: Collection, document_ids: Sequence[str]) -> None:
        """Their chunks go for good."""
        ...

    async def retire(self, document: Document, keep_revision_key: str) -> None:
        """The document's chunks of every other revision go for good."""
        ...

    async def update_fields(self, document: Document) -> None:
        """Makes title, source_uri, metadata and principals of the document hold for its chunks, unless these are of a
        later generation.
        """
        ...

    async def list_chunks(self, document: Document, from_ordinal: int, limit: int) -> tuple[list[Chunk], int]:
        """Chunks from an ordinal on, and how many the document has in all."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """A model that turns text into vectors: `models/{model}`, and its bounds."""

    name: str
    dimension: int
    max_tokens: int


class Models(Protocol):
    async def embedding_model(self, name: str) -> EmbeddingModel:
        """The model of a name or bare id; the default one for "".

        Raises:
            ModelNotFound: There is none that embeds.
            DependencyUnavailable: The embedding service does not answer.
        """
        ...


class Limits(Protocol):
    async def of_caller(self) -> Amounts:
        """What the caller's tenant may keep.

        Raises:
            DependencyUnavailable: Their owner does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes that were stored before, by their SHA-256."""

    content_hash: str
    size_bytes: int


# Text or bytes in the request itself, or an upload.
Content: TypeAlias = str | bytes | Upload


class Jobs(Protocol):
    """Imports what is recorded here.

    Raises:
        DependencyUnavailable: The jobs service does not answer.
    """

    async def import_document(self, document: Document, content: Content, *, validate_only: bool = False) -> bytes:
        """Queues the import of a document; asked again for the same uid and generation, it answers with the same job.

        Returns:
            The job, a serialised ragweave.v1.Job: it is passed on unread.

        Raises:
            UploadNotFound: The upload is gone.
        """
        ...

    async def find_imports(self, documents: Sequence[Document]) -> set[str]:
        """Uids of those of the documents, of one tenant, whose import was queued in the last day."""
        ...

    async def store(
        self,
        parts: AsyncIterator[bytes],
        *,
        upload: str = "",
        offset: int = 0,
        sha256: str = "",
        validate_only: bool = False,
    ) -> Upload:
        """Stores the parts as they come; where they raise, nothing is stored and their error is raised.

        Args:
            upload: Under which what has come is kept for a while when the parts end by an error; not where empty.
            offset: Where in the whole they begin; the rest came under the same `upload`.
            sha256: What the whole must have, where one is given; another is INVALID_ARGUMENT.
            validate_only: The parts are held to the limits and dropped.
        """
        ...

    async def received(self, upload: str) -> int:
        """How many bytes have come of an upload; NOT_FOUND where none have."""
        ...


class Places(Protocol):
    """The folders that tenants may import from, never left: no link is followed.

    Raises:
        PathNotAllowed: The path leads out of the tenant's roots or through a link, or is no path.
        PathNotFound: Nothing is there.
        DependencyUnavailable: The file system fails.
        TooManyRequests: So many look already.
    """

    async def admit(self, tenant: str, path: str) -> None:
        """Refuses a path that leads nowhere the tenant may go; nothing is looked at, whatever exists."""
        ...

    async def look(self, tenant: str, path: str) -> Entry:
        """What is at a path itself; its problem is that of importing it by name."""
        ...


class Folders(Places, Protocol):
    """What those folders hold."""

    async def roots(self, tenant: str) -> list[FoundRoot]: ...

    async def entries(self, tenant: str, path: str, query: ListQuery, *, hidden: bool) -> Page[Entry]:
        """A page of a folder's entries.

        Raises:
            FailedPrecondition: It holds more than can be looked through.
        """
        ...

    async def count(self, tenant: str, path: str) -> tuple[int, bool]:
        """Files below a folder that an import would take, and whether all were looked at in the time there is."""
        ...
