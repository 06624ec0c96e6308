"""Every domain error of the mesh, and the one table that maps each to its gRPC status code."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from grpc import StatusCode


@dataclass(frozen=True, slots=True)
class Violation:
    """One field at fault: its path as the caller wrote it, and what is wrong with it."""

    field: str
    description: str


class DomainError(Exception):
    """What a caller can act on. `message` is shown to the caller: never driver text, never another tenant's data.

    Args:
        message: One sentence naming the field, resource or file.
        violations: Fields at fault; become a BadRequest detail.
        retry_after_s: Seconds until a retry may succeed; becomes a RetryInfo detail.
        **metadata: Strings for machines; become ErrorInfo.metadata.
    """

    reason: ClassVar[str]

    def __init__(
        self,
        message: str,
        *,
        violations: Sequence[Violation] = (),
        retry_after_s: float | None = None,
        **metadata: str,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = tuple(violations)
        self.retry_after_s = retry_after_s
        self.metadata = metadata


class InvalidArgument(DomainError):
    """A field of the request is wrong whatever the state of the system."""

    reason = "INVALID_ARGUMENT"

    @classmethod
    def of(cls, field: str, description: str) -> "InvalidArgument":
        """The error for one field: message "field: description" and the matching violation."""
        return cls(f"{field}: {description}", violations=[Violation(field, description)])


class InvalidFilter(DomainError):
    """A filter that does not parse, or names an unknown field."""

    reason = "INVALID_FILTER"


class InvalidPageToken(DomainError):
    reason = "INVALID_PAGE_TOKEN"


class TextTooLong(DomainError):
    """A text longer than the model takes, and the caller did not ask for truncation."""

    reason = "TEXT_TOO_LONG"


class PathNotAllowed(DomainError):
    """A path outside the allowed roots, by whatever means it tried to leave."""

    reason = "PATH_NOT_ALLOWED"


class PathNotFound(DomainError):
    """Nothing is at a path below an allowed root."""

    reason = "PATH_NOT_FOUND"


class AddressNotAllowed(DomainError):
    """A URL that leads, or may lead, anywhere but to the public web."""

    reason = "ADDRESS_NOT_ALLOWED"


class Unreachable(DomainError):
    """A URL that gave no answer that can be used; the message says what it gave.

    Args:
        passing: It may answer later.
    """

    reason = "UNREACHABLE"

    def __init__(self, message: str, *, passing: bool = False, **metadata: str) -> None:
        super().__init__(message, violations=(), retry_after_s=None, **metadata)
        self.passing = passing


class InvalidRow(DomainError):
    """A row of a table that makes no document."""

    reason = "INVALID_ROW"


class EmptyDocument(DomainError):
    reason = "EMPTY_DOCUMENT"


class NoTextFound(DomainError):
    """A document that parses but holds no text, such as a scanned PDF."""

    reason = "NO_TEXT_FOUND"


class UnreadableDocument(DomainError):
    """A corrupt document, or one that broke the extractor's bounds."""

    reason = "UNREADABLE_DOCUMENT"


class DocumentTooLarge(DomainError):
    """A document over the size limit, as sent or as text."""

    reason = "DOCUMENT_TOO_LARGE"


class UnsupportedMediaType(DomainError):
    reason = "UNSUPPORTED_MEDIA_TYPE"


class Unauthenticated(DomainError):
    reason = "UNAUTHENTICATED"


class TokenRevoked(DomainError):
    """The token, its subject or its whole tenant is denied."""

    reason = "TOKEN_REVOKED"


class PermissionDenied(DomainError):
    reason = "PERMISSION_DENIED"


class CollectionNotFound(DomainError):
    reason = "COLLECTION_NOT_FOUND"


class DocumentNotFound(DomainError):
    reason = "DOCUMENT_NOT_FOUND"


class ChunkNotFound(DomainError):
    reason = "CHUNK_NOT_FOUND"


class JobNotFound(DomainError):
    reason = "JOB_NOT_FOUND"


class DeadLetterNotFound(DomainError):
    reason = "DEAD_LETTER_NOT_FOUND"


class WebhookNotFound(DomainError):
    reason = "WEBHOOK_NOT_FOUND"


class DeliveryNotFound(DomainError):
    reason = "DELIVERY_NOT_FOUND"


class SampleQuerySetNotFound(DomainError):
    reason = "SAMPLE_QUERY_SET_NOT_FOUND"


class EvaluationNotFound(DomainError):
    reason = "EVALUATION_NOT_FOUND"


class ModelNotFound(DomainError):
    reason = "MODEL_NOT_FOUND"


class UploadNotFound(DomainError):
    reason = "UPLOAD_NOT_FOUND"


class OriginalNotFound(DomainError):
    """A document whose original bytes are not stored, so that it cannot be processed again."""

    reason = "ORIGINAL_NOT_FOUND"


class UploadOffsetInvalid(DomainError):
    """An upload goes on further than what has arrived of it; metadata: received_bytes."""

    reason = "UPLOAD_OFFSET_INVALID"


class RevocationNotFound(DomainError):
    reason = "REVOCATION_NOT_FOUND"


class QuotaNotFound(DomainError):
    reason = "QUOTA_NOT_FOUND"


class TenantNotFound(DomainError):
    reason = "TENANT_NOT_FOUND"


class AlreadyExists(DomainError):
    reason = "ALREADY_EXISTS"


class RequestIdReused(DomainError):
    """The same request_id came before with another body."""

    reason = "REQUEST_ID_REUSED"


class EtagMismatch(DomainError):
    reason = "ETAG_MISMATCH"


class LeaseLost(DomainError):
    """A worker tried to write under a lease it no longer holds."""

    reason = "LEASE_LOST"


class FailedPrecondition(DomainError):
    reason = "FAILED_PRECONDITION"


class TenantDeleted(DomainError):
    """Nothing is kept for a tenant that is being erased, or was."""

    reason = "TENANT_DELETED"


class EventsForgotten(DomainError):
    """Events after the sequence asked for are no longer kept, or it is one that was never reached."""

    reason = "EVENTS_FORGOTTEN"


class JobRunning(DomainError):
    """A job of which there is one at a time, and that one has not ended; `job` names it."""

    reason = "JOB_RUNNING"


class SourceEmpty(DomainError):
    """A directory without any file, where all that came from it would be deleted."""

    reason = "SOURCE_EMPTY"


class CollectionDisabled(DomainError):
    reason = "COLLECTION_DISABLED"


class CollectionNotEmpty(DomainError):
    reason = "COLLECTION_NOT_EMPTY"


class TooManyRequests(DomainError):
    """A bounded queue is full."""

    reason = "TOO_MANY_REQUESTS"


class Overloaded(DomainError):
    """More is asked of a service than it can answer in time. It works: later calls, or others, may pass."""

    reason = "OVERLOADED"


class DiskFull(DomainError):
    """There is no room to add anything. What is there can be read and deleted; all goes on once there is room again."""

    reason = "DISK_FULL"


class QuotaExceeded(DomainError):
    """A tenant keeps as much as it may. Waiting does not help: delete something, or have the limit raised."""

    reason = "QUOTA_EXCEEDED"


class DependencyUnavailable(DomainError):
    """A part this service needs does not answer; the message names it. It was asked again where that makes sense."""

    reason = "DEPENDENCY_UNAVAILABLE"


class IndexFailed(DependencyUnavailable):
    """An index that answers, but failed at what it was asked."""

    reason = "INDEX_FAILED"


class DeadlineExceeded(DomainError):
    reason = "DEADLINE_EXCEEDED"


class IndexLocked(DomainError):
    """Another process has the index folder open."""

    reason = "INDEX_LOCKED"


STATUS: dict[type[DomainError], StatusCode] = {
    InvalidArgument: StatusCode.INVALID_ARGUMENT,
    InvalidFilter: StatusCode.INVALID_ARGUMENT,
    InvalidPageToken: StatusCode.INVALID_ARGUMENT,
    TextTooLong: StatusCode.INVALID_ARGUMENT,
    PathNotAllowed: StatusCode.INVALID_ARGUMENT,
    AddressNotAllowed: StatusCode.INVALID_ARGUMENT,
    Unreachable: StatusCode.FAILED_PRECONDITION,
    InvalidRow: StatusCode.INVALID_ARGUMENT,
    EmptyDocument: StatusCode.INVALID_ARGUMENT,
    NoTextFound: StatusCode.INVALID_ARGUMENT,
    UnreadableDocument: StatusCode.INVALID_ARGUMENT,
    DocumentTooLarge: StatusCode.INVALID_ARGUMENT,
    UnsupportedMediaType: StatusCode.INVALID_ARGUMENT,
    Unauthenticated: StatusCode.UNAUTHENTICATED,
    TokenRevoked: StatusCode.UNAUTHENTICATED,
    PermissionDenied: StatusCode.PERMISSION_DENIED,
    CollectionNotFound: StatusCode.NOT_FOUND,
    DocumentNotFound: StatusCode.NOT_FOUND,
    ChunkNotFound: StatusCode.NOT_FOUND,
    JobNotFound: StatusCode.NOT_FOUND,
    DeadLetterNotFound: StatusCode.NOT_FOUND,
    WebhookNotFound: StatusCode.NOT_FOUND,
    DeliveryNotFound: StatusCode.NOT_FOUND,
    SampleQuerySetNotFound: StatusCode.NOT_FOUND,
    EvaluationNotFound: StatusCode.NOT_FOUND,
    ModelNotFound: StatusCode.NOT_FOUND,
    UploadNotFound: StatusCode.NOT_FOUND,
    OriginalNotFound: StatusCode.NOT_FOUND,
    RevocationNotFound: StatusCode.NOT_FOUND,
    PathNotFound: StatusCode.NOT_FOUND,
    QuotaNotFound: StatusCode.NOT_FOUND,
    TenantNotFound: StatusCode.NOT_FOUND,
    AlreadyExists: StatusCode.ALREADY_EXISTS,
    RequestIdReused: StatusCode.ALREADY_EXISTS,
    EtagMismatch: StatusCode.ABORTED,
    LeaseLost: StatusCode.ABORTED,
    FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    TenantDeleted: StatusCode.FAILED_PRECONDITION,
    EventsForgotten: StatusCode.OUT_OF_RANGE,
    UploadOffsetInvalid: StatusCode.OUT_OF_RANGE,
    CollectionDisabled: StatusCode.FAILED_PRECONDITION,
    JobRunning: StatusCode.FAILED_PRECONDITION,
    SourceEmpty: StatusCode.FAILED_PRECONDITION,
    CollectionNotEmpty: StatusCode.FAILED_PRECONDITION,
    TooManyRequests: StatusCode.RESOURCE_EXHAUSTED,
    Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    DiskFull: StatusCode.RESOURCE_EXHAUSTED,
    QuotaExceeded: StatusCode.RESOURCE_EXHAUSTED,
    DependencyUnavailable: StatusCode.UNAVAILABLE,
    IndexFailed: StatusCode.UNAVAILABLE,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    IndexLocked: StatusCode.UNAVAILABLE,
}
