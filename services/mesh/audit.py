"""What a mutation leaves in the audit log: who, what, on whose behalf, with which result. Never any content."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from grpc import StatusCode
from pydantic import TypeAdapter

from services.mesh.identity import Caller
from services.mesh.status import code_of, status_of

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


class Trail(Protocol):
    """Where events go on their way to the audit log."""

    async def begin(self, event: AuditEvent) -> None:
        """Writes ahead of a mutation. Raises DependencyUnavailable where it must not be made without."""
        ...

    async def end(self, event: AuditEvent) -> None:
        """Writes how it ended."""
        ...


@asynccontextmanager
async def audited(trail: Trail, who: Caller, method: str, resource: str) -> AsyncIterator[None]:
    """Records what a service changes by itself inside the block, as the method that callers would have used."""
    event_id, event_time = new_event_id()
    event = AuditEvent(event_id, who.tenant, event_time, who.subject, who.service or "", method, resource)
    started = time.perf_counter()
    code = StatusCode.OK
    try:
        await trail.begin(event)
        yield
    except BaseException as error:
        code = code_of(status_of(error))
        raise
    finally:
        duration_ms = round((time.perf_counter() - started) * 1e3, 3)
        await trail.end(replace(event, code=code.name, duration_ms=duration_ms))


_CODEC: Final = TypeAdapter(AuditEvent)


def packed(event: AuditEvent) -> bytes:
    return _CODEC.dump_json(event)


def unpacked(content: bytes) -> AuditEvent:
    """What `packed` was given, by this version or another. Raises ValueError."""
    return _CODEC.validate_json(content)
