"""What an exception means for the work that met it, by the mesh's own statuses."""

import grpc
import structlog

from services.jobs.job import Failure
from services.mesh.errors import QuotaExceeded, Unreachable
from services.mesh.status import code_of, is_expected, reason_of, status_of

# What another attempt may mend. INTERNAL too: nobody waits for an item, and attempts are counted.
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}
# What no attempt mends, whatever its code: it takes a person.
_LASTING = {QuotaExceeded.reason}

_log = structlog.get_logger("jobs.diagnosis")


def diagnose(error: BaseException) -> Failure:
    """The failure as its item shows it; logs what is unexpected, whose text no caller sees."""
    status = status_of(error)
    if not is_expected(error):
        _log.error("unexpected error", exc_info=error)
    reason = reason_of(status)
    transient = code_of(status) in _TRANSIENT and reason not in _LASTING
    if isinstance(error, Unreachable):
        transient = error.passing
    return Failure(status.code, reason, status.message, transient)
