"""What an exception means for the work that met it, by the mesh's own statuses."""

import grpc
import structlog
from google.rpc import error_details_pb2

from services.jobs.job import Failure
from services.mesh.status import code_of, is_expected, status_of

# What another attempt may mend. INTERNAL too: nobody waits for an item, and attempts are counted.
_TRANSIENT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
}

_log = structlog.get_logger("jobs.diagnosis")


def diagnose(error: BaseException) -> Failure:
    """The failure as its item shows it; logs what is unexpected, whose text no caller sees."""
    status = status_of(error)
    if not is_expected(error):
        _log.error("unexpected error", exc_info=error)
    return Failure(status.code, _reason(status.details), status.message, code_of(status) in _TRANSIENT)


def _reason(details: object) -> str:
    for detail in details:  # type: ignore[attr-defined]
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return "UNKNOWN"
