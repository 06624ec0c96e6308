"""An audit trail for tests."""

from services.mesh.audit import AuditEvent
from services.mesh.errors import DependencyUnavailable


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
