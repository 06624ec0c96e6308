"""Guards for tests: an audit trail and a deny list in memory."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable
from services.mesh.guards import Guards
from services.mesh.identity import Caller
from services.mesh.settings import MeshSettings


class FakeTrail:
    """Remembers what was written to it; may be down, and required."""

    def __init__(self) -> None:
        self.begun: list[AuditEvent] = []
        self.ended: list[AuditEvent] = []
        self.refuses = False

    async def begin(self, event: AuditEvent) -> None:
        if self.refuses:
            raise DependencyUnavailable("the audit log does not answer")
        self.begun.append(event)

    async def end(self, event: AuditEvent) -> None:
        self.ended.append(event)


class NobodyDenied:
    """A deny list without anybody on it."""

    def denies(self, who: Caller) -> bool:
        return False

    @contextmanager
    def watching(self, who: Caller, denied: Callable[[], None]) -> Iterator[None]:
        yield


@asynccontextmanager
async def unguarded(settings: MeshSettings) -> AsyncIterator[Guards]:
    """Guards that need no store."""
    yield Guards(FakeTrail(), NobodyDenied())
