"""What importing needs of the world besides content (ports_content): where jobs rest, and the other services."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from services.jobs.chunker import Chunk, Strategy
from services.jobs.job import (
    Assignment,
    DeadLetter,
    DirectoryImport,
    DocumentSpec,
    Event,
    Failure,
    Item,
    Job,
    Lease,
    Outcome,
    Replayed,
)
from services.jobs.ports_content import Tokenizer
from services.mesh.filters import Filter
from services.mesh.lists import ListQuery, Page
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt


class JobStore(Protocol):
    """Jobs as callers see them. Every method that takes a tenant sees that tenant's jobs only."""

    async def recall(self, receipt: Receipt) -> str | None:
        """The job that an earlier request of this receipt made.

        Raises:
            RequestIdReused: its id stands for another request.
        """
        ...

    async def submit(self, job: Assignment, items: Sequence[DocumentSpec], receipt: Receipt | None = None) -> str:
        """Record a job and queue it, in one step; durable when this returns.

        Args:
            items: Its items where they are known; none where the job has a directory to be listed.

        Returns:
            The job's id; with a receipt that came before, that of the job it made then.

        Raises:
            RequestIdReused: the receipt's id stands for another request.
            JobRunning: a job that has the same `sole` has not ended.
        """
        ...

    async def get(self, tenant: str, job_id: str) -> Job:
        """Raises JobNotFound."""
        ...

    async def list_jobs(self, tenant: str, query: ListQuery) -> Page[Job]: ...

    async def list_items(
        self, tenant: str, job_id: str, query: ListQuery, seen: Callable[[Item], Item] = lambda item: item
    ) -> Page[Item]:
        """A page of a job's items.

        Args:
            seen: What is seen of an item, which is also what the query's filter looks at.

        Raises:
            JobNotFound: the tenant has no such job.
        """
        ...

    async def cancel(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        """Cancel a job; one that is being cancelled, or was, stays as it is.

        Raises:
            JobNotFound: the tenant has no such job.
            FailedPrecondition: it has ended otherwise.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def retry(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        """Queue what failed or was cancelled of an ended job again.

        Raises:
            JobNotFound: the tenant has no such job.
            FailedPrecondition: it has not ended, or there is nothing of that kind.
            JobRunning: another job that has the same `sole` has not ended.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def delete(self, tenant: str, job_id: str, *, etag: str = "", receipt: Receipt | None = None) -> Job:
        """Forget an ended job and all that is kept of it; returns the job as it was.

        Raises:
            JobNotFound: the tenant has no such job.
            FailedPrecondition: it has not ended.
            EtagMismatch: `etag` is given and the job has another.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    async def list_dead_letters(
        self, tenant: str, query: ListQuery, seen: Callable[[Item], Item] = lambda item: item
    ) -> Page[DeadLetter]:
        """A page of the items that failed, of all jobs.

        Args:
            seen: What is seen of an item, which is also what the query's filter looks at.
        """
        ...

    async def find_dead_letters(
        self, tenant: str, filter: Filter, limit: int, seen: Callable[[Item], Item] = lambda item: item
    ) -> list[tuple[str, int]]:
        """Jobs and numbers of the dead letters that match, the oldest first."""
        ...

    async def replay(
        self,
        tenant: str,
        letters: Sequence[tuple[str, int]],
        *,
        all_or_none: bool,
        receipt: Receipt | None = None,
        validate_only: bool = False,
    ) -> Replayed:
        """Queue dead letters, given by job and number, again, in one step; jobs that have ended run again.

        Args:
            all_or_none: Without it, what is not there any more, or of a cancelled job, is left out.

        Raises:
            DeadLetterNotFound, FailedPrecondition, JobRunning: with `all_or_none`, for such.
            RequestIdReused: the receipt's id stands for another request.
        """
        ...

    def events(self, tenant: str, job_id: str, after: int) -> AsyncGenerator[Event, None]:
        """The events after that sequence, as they come, each once and in order; ends where the job has ended.

        A job that runs again goes on where its sequence stopped.

        Raises:
            JobNotFound: the tenant has no such job (any more).
        """
        ...

    async def forget_ended(self, limit: int) -> int:
        """Drop what is left of ended jobs whose time has come, of all tenants, at most so many: how many these were."""
        ...

    async def erase(self, tenant: str) -> tuple[int, bool]:
        """Bar a tenant, as long as it is not admitted, and drop what is kept of it, as far as one call gets.

        Whoever works for it has lost the lease, and TenantDeleted is raised where something is submitted.

        Returns:
            How many things went, and whether these were all.
        """
        ...

    async def admit(self, tenant: str) -> None:
        """Take from the tenant again; no error where it was never erased."""
        ...


class Queue(Protocol):
    """Work to do, leased. Whoever lost a lease writes nothing: every method that takes one raises LeaseLost then."""

    async def adopt(self, known: Sequence[Lease]) -> int:
        """Make what is leased to this worker, but not among `known`, available at once; returns how many these were.

        For a worker that starts after being killed, or that lost an answer with leases in it.
        """
        ...

    async def lease(self, slots: int, but_not: Set[str] = frozenset()) -> list[Lease]:
        """Up to `slots` pieces of work that wait or whose lease has run out, tenants in turns, some left out."""
        ...

    async def wait(self, timeout_s: float) -> None:
        """Until there may be new work, but no longer than this."""
        ...

    async def heartbeat(self, leases: Sequence[Lease]) -> list[str]:
        """Keep leases alive, their documents' locks too. For each "OK", "LOST", or "CANCEL": its job is to stop."""
        ...

    async def assignment(self, lease: Lease) -> Assignment:
        """What the job is to do."""
        ...

    async def lock(self, lease: Lease, collection_uid: str, document_id: str) -> int:
        """Become the one who works on a document, for as long as the lease lasts.

        Returns:
            The fence of what is written meanwhile, higher than that of whoever worked on it before; 0 while another
            does.
        """
        ...

    async def commit(self, lease: Lease, chunks: int) -> bool:
        """Asked right before each write outside. False: the job is being cancelled, write nothing.

        After the first True the item is always seen through, by this worker or another, whatever happens.

        Args:
            chunks: How many it is about to write; kept with the item.
        """
        ...

    async def expand(
        self,
        lease: Lease,
        total: int,
        items: Sequence[DocumentSpec],
        checkpoint: str,
        *,
        final: bool,
        distinct: bool = False,
        doubtful: bool = False,
    ) -> bool:
        """Add and queue a page of items, with the place to go on from, in one step. False: the job is being cancelled.

        Args:
            total: Items before this page; a page that was added already is not added again.
            final: The listing has ended, and with it the lease.
            distinct: Remember the documents, for `absent`, although the import is not a FULL one.
            doubtful: Some of the items are of nobody knows which document: nothing is to be taken as vanished.
        """
        ...

    async def absent(self, lease: Lease, document_ids: Sequence[str]) -> list[str]:
        """Those of the documents that are not among the job's own."""
        ...

    async def finish(self, lease: Lease, outcome: Outcome) -> None:
        """The work has ended: state, counters, event, queue and, where it was the last, the job's end, in one step."""
        ...

    async def put_back(self, lease: Lease, delay_s: float = 0.0, failure: Failure | None = None) -> None:
        """The work is to be done later. It counts as an attempt only where it failed."""
        ...


@dataclass(frozen=True, slots=True)
class Collection:
    """What importing needs to know of a collection.

    Attributes:
        max_tokens: Most tokens of a chunk; 0 leaves it to us.
        source: The directory it is bound to, its path as the caller wrote it; None where it is bound to none.
    """

    id: str
    uid: str
    embedding_model: str
    dimension: int
    disabled: bool = False
    strategy: Strategy = Strategy.STRUCTURE
    max_tokens: int = 0
    overlap_tokens: int = 0
    source: DirectoryImport | None = None


@dataclass(frozen=True, slots=True)
class DocumentFields:
    """What a document carries besides its text.

    Attributes:
        revision: Counts the imports that changed its content.
        create_time: When it was first recorded; None for now.
        fence: Whose turn it is to write; writes with a lower one than the last are refused.
        generation: Counts its deletions and what brought it back: what was known before one does not undo it.
    """

    spec: DocumentSpec
    title: str
    mime_type: str
    content_hash: str
    revision: int
    create_time: datetime | None = None
    fence: int = 0
    generation: int = 0


@dataclass(frozen=True, slots=True)
class KnownDocument:
    """What the registry knows of a document.

    Attributes:
        active: Searches find it.
        pending: Its first import has not ended.
        origin: A packed Origin; "" where its import kept none.
    """

    active: bool
    content_hash: str
    revision_key: str
    fields_hash: str
    revision: int
    title: str
    mime_type: str
    chunk_count: int
    token_count: int
    size_bytes: int = 0
    create_time: datetime | None = None
    document_id: str = ""
    uid: str = ""
    pending: bool = False
    source_uri: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = ()
    source_key: str = ""
    origin: str = ""
    generation: int = 0


@dataclass(frozen=True, slots=True)
class ImportedDocument:
    """What an import made of a document: its fields and counts, or why it failed.

    Attributes:
        document_uid: The document that was made again, whose fields stay; "" where it was imported.
    """

    fields: DocumentFields
    size_bytes: int
    chunk_count: int = 0
    token_count: int = 0
    revision_key: str = ""
    fields_hash: str = ""
    source_key: str = ""
    failure: Failure | None = None
    origin: str = ""
    document_uid: str = ""


class Registry(Protocol):
    """Collections and documents, as the caller's tenant has them."""

    async def collection(self, collection_id: str, uid: str = "") -> Collection:
        """The collection of an id as it now is.

        Args:
            uid: The one that is meant; then it may be as it was a moment ago.

        Raises:
            CollectionNotFound: there is none.
        """
        ...

    async def lookup(self, collection_id: str, document_ids: Sequence[str]) -> dict[str, KnownDocument]:
        """Those of the documents that exist."""
        ...

    async def check_quota(self, more: Amounts) -> None:
        """Raises QuotaExceeded where the tenant may not keep so much more; nothing is set aside for it."""
        ...

    async def select(self, collection_id: str, filter: str, after: str, limit: int) -> list[KnownDocument]:
        """Documents that match, beyond the id `after`, in order; fewer than `limit` at the end.

        Raises:
            CollectionNotFound: there is none.
            InvalidFilter: the filter does not parse.
        """
        ...

    async def count(self, collection_id: str, filter: str) -> int:
        """How many documents match; raises as `select` does."""
        ...

    async def record(self, collection: Collection, document: ImportedDocument) -> None:
        """Record what an import made of a document.

        Raises:
            QuotaExceeded: it is new, or larger than it was, and the tenant may not keep so much.
            LeaseLost: somebody else has recorded it whose fence was higher.
            DocumentNotFound: the document that was made again is gone.
        """
        ...

    async def source_documents(self, collection_id: str, source_key: str, after: str, limit: int) -> list[str]:
        """Ids of the source's documents after that one, in order; fewer than `limit` at the end."""
        ...

    async def needed(self, content_hashes: Sequence[str]) -> set[str]:
        """Those of at most 1,000 hashes that documents have, deleted ones that can come back included."""
        ...

    async def delete_documents(self, collection_id: str, document_ids: Sequence[str], *, filter: str = "") -> int:
        """Delete those of the documents that exist, and match at this moment; how many these were."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddedChunk:
    """A chunk under its id, with its vector as little-endian float32."""

    id: str
    chunk: Chunk
    vector: bytes


class Index(Protocol):
    """Chunks as searches find them. Each write returns the revision of the index that shows it.

    Raises:
        LeaseLost: somebody else has written to the document whose fence was higher.
    """

    async def upsert(
        self, collection: Collection, document: DocumentFields, revision_key: str, chunks: Sequence[EmbeddedChunk]
    ) -> int: ...

    async def retire(
        self, collection: Collection, document_id: str, keep: str, expected_chunks: int, fence: int
    ) -> int:
        """Delete the chunks of every other revision.

        Raises:
            FailedPrecondition: the kept revision has fewer chunks than that; nothing was deleted.
        """
        ...

    async def revision(self, collection: Collection) -> int: ...

    async def update_fields(self, collection: Collection, document: DocumentFields) -> int: ...

    async def delete(self, collection: Collection, document_ids: Sequence[str], fence: int) -> int: ...


class EvaluationRuns(Protocol):
    """The queries of an evaluation, run by its owner as the caller whom the job acts for. All may be repeated."""

    async def queries(self, evaluation_id: str, offset: int, limit: int) -> tuple[list[str], int]:
        """Ids of some of its queries, in order, and how many there are."""
        ...

    async def run(self, evaluation_id: str, query_id: str) -> None:
        """Search, and keep what was found; raises what the search met."""
        ...

    async def conclude(self, evaluation_id: str) -> None:
        """Make the result of all that was found."""
        ...


@dataclass(frozen=True, slots=True)
class Vectors:
    """One vector a text, in order, as little-endian float32; `model_revision` made them."""

    vectors: Sequence[bytes]
    model_revision: str


class Embedding(Protocol):
    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """The vectors of passages, all or none."""
        ...


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """How a model counts text, and what its vectors are like.

    Attributes:
        revision: Changes with the weights or the tokenizer.
        max_tokens: Most tokens of one text, special tokens included.
    """

    name: str
    revision: str
    max_tokens: int
    dimension: int
    tokenizer: Tokenizer = field(repr=False)


class Models(Protocol):
    async def model(self, name: str) -> EmbeddingModel: ...

    def forget(self, name: str) -> None:
        """The model has changed: ask again."""
        ...


class Files(Protocol):
    """Directories documents may be imported from, listed in an order that stays the same."""

    async def resolve(self, tenant: str, wanted: DirectoryImport) -> tuple[DirectoryImport, str]:
        """The directory whose path a caller gave, and the name of the one file in it where the path is a file's.

        Raises:
            PathNotAllowed: outside the tenant's roots, or through a link.
            PathNotFound: there is nothing.
            InvalidArgument: a glob that is none.
        """
        ...

    async def page(
        self, tenant: str, directory: DirectoryImport, after: str, limit: int
    ) -> tuple[list[DocumentSpec], str | None]:
        """Documents after that place in the list, and the place to go on after; None at the end.

        Raises:
            PathNotAllowed: the directory is not allowed any more.
            PathNotFound: it is gone.
        """
        ...

    async def read(self, tenant: str, directory: DirectoryImport, path: str) -> bytes:
        """Raises PathNotAllowed, PathNotFound, UnreadableDocument, DocumentTooLarge."""
        ...

    def spec(self, directory: DirectoryImport, path: str, refused: str = "") -> DocumentSpec:
        """The document made from a file of the directory."""
        ...


# What an exception means for the work that met it; never shows the text of an unexpected one.
Diagnose = Callable[[BaseException], Failure]
