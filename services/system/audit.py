"""The audit log as a tenant's administrators read it."""

from collections.abc import Mapping
from typing import Any, Final

from services.mesh.audit import OUTCOMES, AuditEvent
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.identity import Caller
from services.mesh.lists import Listing, Page
from services.system.ports import AuditLog

AUDIT_EVENTS: Final = Listing(
    Schema(
        {
            "name": Field(FieldType.STRING, ordered=True),
            "event_time": Field(FieldType.TIMESTAMP),
            "subject": Field(FieldType.STRING, ordered=True),
            "service": Field(FieldType.STRING, ordered=True),
            "method": Field(FieldType.STRING, ordered=True),
            "resource": Field(FieldType.STRING, ordered=True),
            "outcome": Field(FieldType.ENUM, values=OUTCOMES),
            "code": Field(FieldType.STRING, ordered=True),
            "call_id": Field(FieldType.STRING, ordered=True),
            "trace_id": Field(FieldType.STRING, ordered=True),
            "token_id": Field(FieldType.STRING, ordered=True),
            "validate_only": Field(FieldType.BOOL),
        }
    ),
    sortable=("event_time", "name"),
    key="name",
    default_order="event_time desc, name desc",
)


def event_fields(event: AuditEvent) -> Mapping[str, Any]:
    """What filters and orders look at, by field name."""
    return {name: getattr(event, name) for name in AUDIT_EVENTS.schema.fields}


class Audit:
    """What was asked of each tenant's resources; another tenant's events do not exist."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def list_events(self, who: Caller, **asked: Any) -> Page[AuditEvent]:
        """A page of the tenant's events, the newest first; `asked` as `Listing.query` takes it."""
        return await self._log.list_events(who.tenant, AUDIT_EVENTS.query(parent=who.tenant, **asked))
