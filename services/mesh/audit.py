"""What a mutation leaves in the audit log: who, what, on whose behalf, with which result. Never any content."""

import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from grpc import StatusCode

OUTCOMES: Final = ("SUCCEEDED", "REFUSED", "FAILED", "UNKNOWN")

# The caller's fault, or not allowed: nothing was done.
_REFUSALS: Final = frozenset(
    {
        StatusCode.INVALID_ARGUMENT.name,
        StatusCode.NOT_FOUND.name,
        StatusCode.ALREADY_EXISTS.name,
        StatusCode.PERMISSION_DENIED.name,
        StatusCode.UNAUTHENTICATED.name,
        StatusCode.FAILED_PRECONDITION.name,
        StatusCode.ABORTED.name,
        StatusCode.OUT_OF_RANGE.name,
        StatusCode.RESOURCE_EXHAUSTED.name,
        StatusCode.UNIMPLEMENTED.name,
    }
)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One mutation that was asked for; begun only, as long as it has no code.

    Attributes:
        event_id: In the order of time; the same for the begun and the ended event.
        subject: On whose behalf.
        service: Who relayed the call; empty where the subject called directly.
        method: Its gRPC path.
        resource: As the request named it, else the one that was made.
        code: Its gRPC status code's name; empty while it has not ended.
        token_id: The token's `jti`.
        validate_only: Nothing was to change.
    """

    event_id: str
    tenant: str
    event_time: datetime
    subject: str
    service: str
    method: str
    resource: str = ""
    code: str = ""
    call_id: str = ""
    trace_id: str = ""
    token_id: str = ""
    duration_ms: float = 0.0
    validate_only: bool = False

    @property
    def name(self) -> str:
        return f"auditEvents/{self.event_id}"

    @property
    def outcome(self) -> str:
        """One of OUTCOMES; UNKNOWN until it has ended."""
        if not self.code:
            return "UNKNOWN"
        if self.code == StatusCode.OK.name:
            return "SUCCEEDED"
        return "REFUSED" if self.code in _REFUSALS else "FAILED"


def new_event_id() -> tuple[str, datetime]:
    """An id that sorts by time, among those of all processes, and its time."""
    nanoseconds = time.time_ns()
    return f"{nanoseconds:016x}{secrets.token_hex(8)}", datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC)
