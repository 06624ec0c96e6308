"""Between the contract's messages and the domain."""

from collections.abc import Mapping
from typing import Any, Final

from google.rpc.status_pb2 import Status

from ragweave.v1 import audit_event_pb2, quota_pb2, revocation_pb2, system_service_pb2, tenant_pb2
from services.mesh.audit import AuditEvent
from services.mesh.convert_times import time_from, time_to
from services.mesh.errors import InvalidArgument
from services.mesh.lists import Page
from services.mesh.quotas import amounts_to
from services.mesh.status import status_of
from services.system.convert_usage import row_to
from services.system.export import Ended, Exported, OriginalPart
from services.system.ports import Archived
from services.system.records import Quota, Revocation, Tenant, UsageRow
from services.system.revocations import NewRevocation

_MAX_TENANT: Final = 128


def asked_from(request: Any) -> Mapping[str, Any]:
    """The paging fields of a List request, as `Listing.query` takes them."""
    return {name: getattr(request, name) for name in ("page_size", "page_token", "page", "filter", "order_by")}


def audit_event_to(event: AuditEvent) -> audit_event_pb2.AuditEvent:
    return audit_event_pb2.AuditEvent(
        name=event.name,
        event_time=time_to(event.event_time),
        subject=event.subject,
        service=event.service,
        method=event.method,
        resource=event.resource,
        outcome=audit_event_pb2.AuditEvent.Outcome.Value(event.outcome),
        code=event.code,
        call_id=event.call_id,
        trace_id=event.trace_id,
        token_id=event.token_id,
        duration_ms=event.duration_ms,
        validate_only=event.validate_only,
    )


def audit_events_to(page: Page[AuditEvent]) -> system_service_pb2.ListAuditEventsResponse:
    return system_service_pb2.ListAuditEventsResponse(
        audit_events=map(audit_event_to, page.items),
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def new_revocation_from(given: revocation_pb2.Revocation) -> NewRevocation:
    return NewRevocation(
        subject=given.subject,
        token_id=given.token_id,
        reason=given.reason,
        expire_time=time_from(given.expire_time, "revocation.expire_time") if given.HasField("expire_time") else None,
    )


def revocation_to(revocation: Revocation) -> revocation_pb2.Revocation:
    message = revocation_pb2.Revocation(
        name=revocation.name,
        reason=revocation.reason,
        expire_time=time_to(revocation.expire_time),
        create_time=time_to(revocation.create_time),
        creator=revocation.creator,
        etag=revocation.etag,
    )
    if revocation.subject:
        message.subject = revocation.subject
    else:
        message.token_id = revocation.token_id
    return message


def revocations_to(page: Page[Revocation]) -> system_service_pb2.ListRevocationsResponse:
    return system_service_pb2.ListRevocationsResponse(
        revocations=map(revocation_to, page.items),
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def quota_to(quota: Quota) -> quota_pb2.Quota:
    return quota_pb2.Quota(
        name=quota.name,
        limits=amounts_to(quota.limits),
        usage=None if quota.usage is None else amounts_to(quota.usage),
        update_time=time_to(quota.update_time),
        etag=quota.etag,
    )


def tenant_to(tenant: Tenant) -> tenant_pb2.Tenant:
    return tenant_pb2.Tenant(
        name=tenant.name,
        state=tenant_pb2.Tenant.State.Value(tenant.state),
        parts=[
            tenant_pb2.Tenant.Part(
                service=part.service,
                erased=part.erased,
                error=Status(code=part.code, message=part.message) if part.code else None,
            )
            for part in tenant.parts
        ],
        delete_time=time_to(tenant.delete_time),
        purge_time=time_to(tenant.purge_time),
    )


def exported_to(exported: Exported) -> system_service_pb2.ExportTenantResponse:
    record = system_service_pb2.ExportTenantResponse()
    match exported:
        case Archived():
            getattr(record, exported.kind).ParseFromString(exported.content)
        case OriginalPart():
            record.original_part.CopyFrom(
                system_service_pb2.ExportTenantResponse.OriginalPart(
                    content_hash=exported.content_hash,
                    offset_bytes=exported.offset_bytes,
                    data=exported.data,
                    final=exported.final,
                )
            )
        case Quota():
            record.quota.CopyFrom(quota_to(exported))
        case Revocation():
            record.revocation.CopyFrom(revocation_to(exported))
        case UsageRow():
            record.usage.CopyFrom(row_to(exported))
        case AuditEvent():
            record.audit_event.CopyFrom(audit_event_to(exported))
        case Ended():
            record.final_status.CopyFrom(status_of(exported.error) if exported.error else Status())
    return record


def tenant_from(name: str, *, of: str, field: str = "name") -> str:
    """The tenant in `quotas/{tenant}` or `tenants/{tenant}`, as `of` says. Raises InvalidArgument naming `field`."""
    kind, _, tenant = name.partition("/")
    if kind != of or not tenant or "/" in tenant or len(tenant) > _MAX_TENANT:
        raise InvalidArgument.of(field, f"must be {of}/{{tenant}}")
    return tenant
