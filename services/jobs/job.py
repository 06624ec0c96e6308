"""Jobs and their items: what is known of them, and the one table of how each may change state."""

import base64
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from services.mesh.errors import DeadLetterNotFound, EtagMismatch, FailedPrecondition, JobRunning
from services.mesh.roots import key_in, spelt_in

# google.rpc.Code
_RESOURCE_EXHAUSTED = 8
_UNAVAILABLE = 14


class JobType(StrEnum):
    """What a job does with its documents."""

    IMPORT = "IMPORT"  # brings them in
    SYNC = "SYNC"  # brings a bound directory's in, and deletes those that vanished from it
    REPROCESS = "REPROCESS"  # extracts, cuts and embeds them again
    PURGE = "PURGE"  # deletes them
    EVALUATE = "EVALUATE"  # has none: its items are queries


class JobState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    PARTIALLY_SUCCEEDED = "PARTIALLY_SUCCEEDED"
    FAILED = "FAILED"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return not any(state is self and change not in _ANEW for state, change in JOB_TRANSITIONS)

    @property
    def may_be_replayed(self) -> bool:
        """What failed of a job in this state may be queued again by itself."""
        return (self, JobChange.REPLAY) in JOB_TRANSITIONS


class JobChange(StrEnum):
    """What may happen to a job."""

    BEGIN = "BEGIN"  # a worker took its first piece of work
    CANCEL = "CANCEL"  # a caller asked for it
    STOP = "STOP"  # a cancelled job has no work in flight any more
    SUCCEED = "SUCCEED"  # all ended, nothing failed
    FAIL_SOME = "FAIL_SOME"  # all ended, some failed
    FAIL = "FAIL"  # all ended, nothing succeeded
    RETRY = "RETRY"  # a caller wants what failed or was cancelled done after all
    REPLAY = "REPLAY"  # a caller wants some of what failed done after all


# These lead out of ends, too.
_ANEW = (JobChange.RETRY, JobChange.REPLAY)


class ItemState(StrEnum):
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        return not any(state is self and change is not ItemChange.RETRY for state, change in ITEM_TRANSITIONS)


class ItemChange(StrEnum):
    """What may happen to an item."""

    LEASE = "LEASE"  # a worker took it, or took it over from one that lost it
    PUT_BACK = "PUT_BACK"  # its worker gives it back, to be done later
    SUCCEED = "SUCCEED"
    FAIL = "FAIL"
    SKIP = "SKIP"
    CANCEL = "CANCEL"
    RETRY = "RETRY"  # a caller wants it done after all


# The store refuses whatever is not in these tables: its scripts are given them, so there is no other copy.
JOB_TRANSITIONS: Mapping[tuple[JobState, JobChange], JobState] = {
    (JobState.QUEUED, JobChange.BEGIN): JobState.RUNNING,
    (JobState.QUEUED, JobChange.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobChange.CANCEL): JobState.CANCELLING,
    (JobState.RUNNING, JobChange.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobChange.FAIL_SOME): JobState.PARTIALLY_SUCCEEDED,
    (JobState.RUNNING, JobChange.FAIL): JobState.FAILED,
    (JobState.CANCELLING, JobChange.STOP): JobState.CANCELLED,
    (JobState.PARTIALLY_SUCCEEDED, JobChange.RETRY): JobState.QUEUED,
    (JobState.FAILED, JobChange.RETRY): JobState.QUEUED,
    (JobState.CANCELLED, JobChange.RETRY): JobState.QUEUED,
    (JobState.QUEUED, JobChange.REPLAY): JobState.QUEUED,
    (JobState.RUNNING, JobChange.REPLAY): JobState.RUNNING,
    (JobState.PARTIALLY_SUCCEEDED, JobChange.REPLAY): JobState.QUEUED,
    (JobState.FAILED, JobChange.REPLAY): JobState.QUEUED,
}
ITEM_TRANSITIONS: Mapping[tuple[ItemState, ItemChange], ItemState] = {
    (ItemState.QUEUED, ItemChange.LEASE): ItemState.RUNNING,
    (ItemState.QUEUED, ItemChange.CANCEL): ItemState.CANCELLED,
    (ItemState.RUNNING, ItemChange.LEASE): ItemState.RUNNING,
    (ItemState.RUNNING, ItemChange.PUT_BACK): ItemState.QUEUED,
    (ItemState.RUNNING, ItemChange.SUCCEED): ItemState.SUCCEEDED,
    (ItemState.RUNNING, ItemChange.FAIL): ItemState.FAILED,
    (ItemState.RUNNING, ItemChange.SKIP): ItemState.SKIPPED,
    (ItemState.RUNNING, ItemChange.CANCEL): ItemState.CANCELLED,
    (ItemState.FAILED, ItemChange.RETRY): ItemState.QUEUED,
    (ItemState.CANCELLED, ItemChange.RETRY): ItemState.QUEUED,
}


class OnDuplicate(StrEnum):
    """What happens to a document that is already there."""

    SKIP = "SKIP"
    REPLACE = "REPLACE"


class RowFormat(StrEnum):
    """How the rows of a table are written."""

    JSONL = "JSONL"
    CSV = "CSV"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something failed.

    Attributes:
        code: gRPC's number of the status.
        reason: For programs.
        message: For people; names the file or document.
        transient: Trying again later may help.
    """

    code: int
    reason: str
    message: str
    transient: bool = False

    @property
    def unreachable(self) -> bool:
        """What was needed did not answer, or had no room: waiting a little may be all it takes."""
        return self.transient and self.code in (_RESOURCE_EXHAUSTED, _UNAVAILABLE)


@dataclass(frozen=True, slots=True)
class DirectoryImport:
    """Files of a directory to import: those that an include glob wants (all, without one) and no exclude glob.

    Attributes:
        root: The name of the tenant's root it is under.
        path: The directory, relative to the root.
        metadata: Given to every document.
    """

    root: str
    path: str
    include_globs: tuple[str, ...] = ()
    exclude_globs: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def spelt(self, path: str) -> str:
        """A file of it as requests name it."""
        return spelt_in(self.root, self._from_root(path))

    def key(self, path: str = "") -> str:
        """Itself or a file of it, as nothing else of the tenant's roots is called."""
        return key_in(self.root, self._from_root(path))

    def _from_root(self, path: str) -> str:
        return "/".join(part for part in (self.path, path) if part)


@dataclass(frozen=True, slots=True)
class TableImport:
    """Rows of a stored table to import, and which of their fields is what.

    Attributes:
        name: What its rows are called by, with their lines.
        columns: Names of the fields of CSV, from its first row; a row of JSON names its own.
        text_fields: Make the text; all fields where empty.
        metadata_fields: Become metadata; all that are nothing else where empty.
    """

    content_hash: str
    name: str
    format: RowFormat
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    id_field: str = ""
    text_fields: tuple[str, ...] = ()
    title_field: str = ""
    source_uri_field: str = ""
    metadata_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DocumentSpec:
    """A document to import: what its sender said of it, and where its content is.

    Attributes:
        source_uri: Shown with every hit.
        mime_type: As declared; "" leaves it to be found.
        charset: Of `content_hash`'s bytes, where known for certain.
        metadata: JSON values.
        content_hash: The content in the blob store; "" where `path` is to be read.
        path: A file of the job's directory, relative to it; or the place of a row in the job's table.
        refused: Why it cannot be read, where the listing showed that already.
    """

    document_id: str
    source_uri: str = ""
    title: str = ""
    mime_type: str = ""
    charset: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    principals: tuple[str, ...] = ()
    content_hash: str = ""
    path: str = ""
    refused: str = ""

    def within(self, directory: DirectoryImport | None) -> "DocumentSpec":
        """With what it has from the directory it was found in."""
        if directory is None or not self.path:
            return self
        return replace(self, source_uri=directory.spelt(self.path), metadata=directory.metadata)

    def of(self, job: "Assignment") -> "DocumentSpec":
        """With what it has from its job."""
        if job.table is not None and self.path:
            return replace(self, source_uri=f"{job.table.name}#line={self.path.rpartition('@')[2]}")
        return self.within(job.directory)


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a job is to do; never changes once the job is recorded.

    Attributes:
        subject: On whose behalf its workers act.
        collection_uid: A collection deleted and made anew is another one.
        directory: Where its documents are listed from; None where the job came with its items.
        table: Whose rows its documents are; None where they are no rows.
        web: Its documents are pages, each at its source_uri.
        source_key: Names the import source, for finding what vanished from it; "" where it has none.
        full: It has a last step: documents of the source that it no longer has are deleted, an evaluation is concluded.
        sole: Of the tenant's jobs that have the same here, one at a time has not ended; "" for any number.
        allow_empty: A FULL job deletes, too, where its source shows no document at all.
        filter: Which documents of the collection it is about, where it is about those; "" for all.
        evaluation: Id of the evaluation whose queries are its items; "" where they are documents.
        principals: What the subject may see of documents, where the job searches for it.
        request: The request that made the job, opaque here.
    """

    tenant: str
    job_id: str
    subject: str
    type: JobType
    collection_id: str
    collection_uid: str
    on_duplicate: OnDuplicate = OnDuplicate.SKIP
    directory: DirectoryImport | None = None
    table: TableImport | None = None
    web: bool = False
    source_key: str = ""
    full: bool = False
    sole: str = ""
    allow_empty: bool = True
    filter: str = ""
    evaluation: str = ""
    principals: tuple[str, ...] = ()
    request: bytes = b""


def changed(job_id: str = "") -> EtagMismatch:
    """What a stale etag is answered with."""
    return EtagMismatch(f"jobs/{job_id} has changed since this etag was read; read it again", job=job_id)


def not_to_be_retried(job_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"jobs/{job_id} has nothing to retry: it has not ended yet, or nothing of it failed or was cancelled",
        job=job_id,
    )


def still_running(job_id: str, other: str) -> JobRunning:
    """What is answered where a job that is to run is `job_id`, or not made yet, and the `other` one has not ended."""
    which = f"jobs/{job_id} cannot run" if job_id else "no other job of this kind can run"
    return JobRunning(f"{which} before jobs/{other} has ended; wait for it, or cancel it", job=f"jobs/{other}")


def not_to_be_forgotten(job_id: str) -> FailedPrecondition:
    return FailedPrecondition(f"jobs/{job_id} has not ended; cancel it first", job=job_id)


def state_of(etag: str) -> tuple[int, str]:
    """Attempt and state that an etag of a job stands for. Raises EtagMismatch where it is no job's."""
    attempt, _, state = etag.strip('"').partition("-")
    if not attempt.isdecimal() or not attempt.isascii() or state not in tuple(JobState):
        raise changed()
    return int(attempt), state


def new_job_id() -> str:
    """An id no other job has; ids sort by when they were made."""
    made = (time.time_ns() // 1_000_000).to_bytes(6) + secrets.token_bytes(6)
    return base64.b32hexencode(made).decode().rstrip("=").lower()


@dataclass(frozen=True, slots=True)
class Progress:
    total: int = 0
    total_final: bool = False
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    chunks: int = 0
    bytes: int = 0
    items_per_second: float = 0.0

    @property
    def processed(self) -> int:
        return self.succeeded + self.failed + self.skipped


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would do.

    Attributes:
        sampled: It was inferred from a part of the documents.
        sample: Ids of some of the documents, where they would be deleted.
    """

    documents: int
    chunks: int
    tokens: int
    duplicates: int
    sampled: bool = False
    sample: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """A job as it was at `read_time`.

    Attributes:
        index_revision: Highest revision of the index that its writes made; 0 where it wrote nothing.
        error: Why it failed, or the first item's error.
    """

    assignment: Assignment
    state: JobState
    progress: Progress
    read_time: datetime
    create_time: datetime
    update_time: datetime
    start_time: datetime | None = None
    end_time: datetime | None = None
    purge_time: datetime | None = None
    attempt: int = 1
    error: Failure | None = None
    index_revision: int = 0
    estimate: Estimate | None = None

    @property
    def id(self) -> str:
        return self.assignment.job_id

    @property
    def etag(self) -> str:
        """Tells the states of a job apart, and not its progress."""
        return f'"{self.attempt}-{self.state}"'

    def cancelled(self) -> "Job":
        """The job once it is cancelled; one that is being cancelled, or was, as it is.

        Raises:
            FailedPrecondition: it has ended otherwise.
        """
        if self.state in (JobState.CANCELLING, JobState.CANCELLED):
            return self
        if self.state.ended:
            raise FailedPrecondition(f"jobs/{self.id} has ended already", job=self.id)
        return replace(self, state=JOB_TRANSITIONS[self.state, JobChange.CANCEL])

    def retried(self) -> "Job":
        """The job once what failed or was cancelled runs again.

        Raises:
            FailedPrecondition: it has not ended, or nothing of it failed or was cancelled.
        """
        if (self.state, JobChange.RETRY) not in JOB_TRANSITIONS:
            raise not_to_be_retried(self.id)
        again = JOB_TRANSITIONS[self.state, JobChange.RETRY]
        return replace(self, state=again, attempt=self.attempt + 1, error=None, end_time=None, purge_time=None)

    def forgotten(self) -> "Job":
        """The job as it was when it is forgotten.

        Raises:
            FailedPrecondition: it has not ended.
        """
        if not self.state.ended:
            raise not_to_be_forgotten(self.id)
        return self

    @property
    def percentage(self) -> float:
        """Share of the items that ended, in percent; 100 only of an ended job."""
        progress = self.progress
        if not progress.total:
            return 100.0 if self.state.ended and self.state is not JobState.CANCELLED else 0.0
        share = 100.0 * progress.processed / progress.total
        return share if self.state.ended else min(share, 99.9)

    @property
    def estimated_end_time(self) -> datetime | None:
        """When the last item ends at the rate of the last minute; None where that cannot be told."""
        progress = self.progress
        if self.state is not JobState.RUNNING or not progress.total_final or not progress.items_per_second:
            return None
        return self.read_time + timedelta(seconds=(progress.total - progress.processed) / progress.items_per_second)


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a job; `number` counts from 1 in the order found.

    Attributes:
        attempts: Times it was begun, since it was last queued by a caller.
        timings_ms: Milliseconds by stage.
    """

    number: int
    spec: DocumentSpec
    state: ItemState
    attempts: int
    create_time: datetime
    end_time: datetime | None = None
    chunks: int = 0
    size_bytes: int = 0
    error: Failure | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An item that failed for good, and its job: kept until it is replayed or retried, or forgotten with the job."""

    job: Job
    item: Item

    @property
    def id(self) -> str:
        return f"{self.job.id}-{self.item.number}"


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many items were queued again, and the jobs they are of."""

    count: int
    jobs: tuple[str, ...]


def item_of(dead_letter_id: str) -> tuple[str, int]:
    """Job and number of the item that a dead letter is. Raises DeadLetterNotFound where the id is none."""
    job_id, _, number = dead_letter_id.rpartition("-")
    if not job_id or not number.isdecimal() or not number.isascii() or len(number) > 9 or number != str(int(number)):
        raise no_dead_letter(dead_letter_id)
    return job_id, int(number)


def no_dead_letter(dead_letter_id: str) -> DeadLetterNotFound:
    return DeadLetterNotFound(f"deadLetters/{dead_letter_id} does not exist", dead_letter=dead_letter_id)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job: the job after it, and the item it happened to, if it was one."""

    sequence: int
    time: datetime
    job: Job
    item: Item | None = None


class Task(StrEnum):
    """What a lease is for."""

    ITEM = "ITEM"  # one document
    EXPAND = "EXPAND"  # list the source and queue its documents
    SWEEP = "SWEEP"  # delete what vanished from the source


@dataclass(frozen=True, slots=True)
class Lease:
    """A piece of work that is ours while we keep the lease alive.

    Attributes:
        number: The item's; 0 for EXPAND, -1 for SWEEP.
        entry: Its entry in the queue.
        fence: Counts the leases of this piece of work; writes under an older one are refused.
        attempt: Times it was begun, this one included.
        deaths: Attempts in a row, before this one, that ended without a word: their worker was killed, perhaps by them.
        committing: An earlier attempt may have written to the index: this one must see it through.
        torn: It failed before with something half written left behind.
        chunks: How many chunks that attempt was about to write.
        checkpoint: Where an EXPAND goes on; "" at the beginning.
        total: Items found so far.
        queued_by: The traceparent of the call that had it queued last; "" where none did.
    """

    tenant: str
    job_id: str
    number: int
    entry: str
    fence: int
    attempt: int
    deaths: int
    committing: bool
    torn: bool = False
    chunks: int = 0
    spec: DocumentSpec | None = None
    checkpoint: str = ""
    total: int = 0
    queued_by: str = ""

    @property
    def task(self) -> Task:
        return {0: Task.EXPAND, -1: Task.SWEEP}.get(self.number, Task.ITEM)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an item, or another task, ended.

    Attributes:
        chunks: Chunks written.
        index_revision: Revision of the index that shows them; 0 where nothing was written.
        torn: It failed with something half written left behind: whoever runs it again sees to that.
    """

    change: ItemChange
    chunks: int = 0
    size_bytes: int = 0
    index_revision: int = 0
    error: Failure | None = None
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    torn: bool = False
