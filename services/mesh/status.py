"""Any exception as the google.rpc.Status a caller gets, at the end of a call, a stream or a failed item."""

from collections.abc import Iterable

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from services.mesh.errors import STATUS, DomainError, QuotaExceeded, TokenRevoked, TooManyRequests

DOMAIN = "ragweave"
DETAILS_KEY = "grpc-status-details-bin"

# Codes that are the server's fault, by OpenTelemetry's conventions for gRPC spans.
SERVER_FAULTS = {
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}

# What a service relays as it is: the caller of the outer call can act on it.
_PASSED_ON = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}
_REVOKED = TokenRevoked.reason
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_RETRY_UNREACHABLE_S = 1.0
# Statuses travel in trailing metadata, of which gRPC takes 8 KiB (GRPC_ARG_MAX_METADATA_SIZE): what is longer is cut.
# Bytes of UTF-8; the details are sent as base64, the message percent-encoded as well.
_MAX_MESSAGE = 800
_MAX_TEXT = 150
_MAX_VIOLATIONS = 6


def status_of(error: BaseException) -> Status:
    """The Status of any exception: a domain error's own, a downstream call's if a caller can act on it, else INTERNAL.

    Never holds the text of an unexpected exception; `is_expected` tells whether to log it.
    """
    if isinstance(error, BaseExceptionGroup):  # of a TaskGroup: what is unexpected counts more than what is not
        statuses = [status_of(each) for each in error.exceptions]
        return next((each for each in statuses if code_of(each) is grpc.StatusCode.INTERNAL), statuses[0])
    if isinstance(error, DomainError):
        return _of_domain(error)
    if isinstance(error, grpc.aio.AioRpcError):
        return _of_downstream(error)
    return _status(grpc.StatusCode.INTERNAL, "internal error", [_info("INTERNAL")])


def is_expected(error: BaseException) -> bool:
    """Whether the error tells its caller what happened, so that nobody need read a log."""
    return code_of(status_of(error)) is not grpc.StatusCode.INTERNAL


def code_of(status: Status) -> grpc.StatusCode:
    """The Status's code as gRPC's enum; UNKNOWN for a number gRPC has no name for."""
    return _CODES.get(status.code, grpc.StatusCode.UNKNOWN)


def reason_of(status: Status) -> str:
    """The reason of its ErrorInfo, for programs; "UNKNOWN" without one."""
    info = _info_of(status)
    return info.reason if info else "UNKNOWN"


def dependency_of(status: Status) -> str:
    """What did not answer, as its ErrorInfo names it; "" where it names nothing."""
    info = _info_of(status)
    return (info.metadata.get("dependency") or info.metadata.get("service", "")) if info else ""


def retry_after_s(status: Status) -> float | None:
    """Seconds after which its RetryInfo says to try again; None without one."""
    for detail in status.details:
        info = details.RetryInfo()
        if detail.Unpack(info):
            return info.retry_delay.ToNanoseconds() / 1e9
    return None


def _of_domain(error: DomainError) -> Status:
    found: list[Message] = [_info(error.reason, **error.metadata)]
    if error.violations:
        violations = [
            details.BadRequest.FieldViolation(
                field=_cut(each.field, _MAX_TEXT), description=_cut(each.description, _MAX_TEXT)
            )
            for each in error.violations[:_MAX_VIOLATIONS]
        ]
        found.append(details.BadRequest(field_violations=violations))
    if isinstance(error, (TooManyRequests, QuotaExceeded)):
        subject = error.metadata.get("subject", error.reason)
        violation = details.QuotaFailure.Violation(subject=subject, description=_cut(error.message, _MAX_TEXT))
        found.append(details.QuotaFailure(violations=[violation]))
    if error.retry_after_s is not None:
        found.append(_retry_after(error.retry_after_s))
    return _status(_code_for(type(error)), error.message, found)


def _of_downstream(error: grpc.aio.AioRpcError) -> Status:
    code = error.code()
    if code is grpc.StatusCode.UNAUTHENTICATED and (relayed := _relayed(error)) and reason_of(relayed) == _REVOKED:
        return relayed  # the caller's token, not ours
    if code in _PASSED_ON:
        return _relayed(error) or _status(code, error.details() or code.name.lower(), [_info(code.name)])
    if code is grpc.StatusCode.UNAVAILABLE:
        service = str(getattr(error, "service", "")) or "a service this call needs"
        found: list[Message] = [
            _info("DEPENDENCY_UNAVAILABLE", service=service),
            _retry_after(_RETRY_UNREACHABLE_S),
        ]
        return _status(code, f"{service} is unavailable", found)
    return _status(grpc.StatusCode.INTERNAL, "internal error", [_info("INTERNAL")])


def _relayed(error: grpc.aio.AioRpcError) -> Status | None:
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY:
            try:
                status = Status.FromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
            return status if status.code == error.code().value[0] else None
    return None


def _info_of(status: Status) -> details.ErrorInfo | None:
    for detail in status.details:
        info = details.ErrorInfo()
        if detail.Unpack(info):
            return info
    return None


def _code_for(kind: type[DomainError]) -> grpc.StatusCode:
    """The code of the error or of the nearest class it derives from; INTERNAL for one the table misses."""
    return next((STATUS[each] for each in kind.__mro__ if each in STATUS), grpc.StatusCode.INTERNAL)


def _info(reason: str, **metadata: str) -> details.ErrorInfo:
    return details.ErrorInfo(
        reason=reason, domain=DOMAIN, metadata={key: _cut(str(value), _MAX_TEXT) for key, value in metadata.items()}
    )


def _retry_after(seconds: float) -> details.RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(round(seconds * 1e9))
    return details.RetryInfo(retry_delay=delay)


def _cut(text: str, max_bytes: int) -> str:
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= max_bytes:
        return encoded.decode()
    return encoded[: max_bytes - 3].decode("utf-8", "ignore") + "…"


def _status(code: grpc.StatusCode, message: str, found: Iterable[Message]) -> Status:
    status = Status(code=code.value[0], message=_cut(message, _MAX_MESSAGE))
    for each in found:
        packed = AnyMessage()
        packed.Pack(each)
        status.details.append(packed)
    return status
