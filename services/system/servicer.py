"""The service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc

from ragweave.internal.v1 import quota_service_pb2 as internal_pb
from ragweave.internal.v1 import usage_service_pb2 as usage_pb
from ragweave.internal.v1.quota_service_pb2_grpc import QuotaServiceServicer
from ragweave.internal.v1.usage_service_pb2_grpc import UsageServiceServicer
from ragweave.v1 import health_pb2, quota_pb2, revocation_pb2, tenant_pb2, version_pb2
from ragweave.v1 import system_service_pb2 as pb
from ragweave.v1.system_service_pb2_grpc import SystemServiceServicer
from services.mesh.calls import current_call
from services.mesh.health import tell_edge
from services.mesh.identity import caller
from services.mesh.quotas import amounts_from, amounts_to
from services.mesh.receipts import receipt_from
from services.system import convert, convert_health, convert_usage
from services.system.audit import Audit
from services.system.export import Exports
from services.system.health import Deployment
from services.system.quotas import Quotas
from services.system.revocations import Revocations
from services.system.tenants import Tenants
from services.system.usage import SearchUsage

Context = grpc.aio.ServicerContext[Any, Any]


class SystemServicer(SystemServiceServicer):
    def __init__(
        self,
        audit: Audit,
        revocations: Revocations,
        quotas: Quotas,
        usage: SearchUsage,
        tenants: Tenants,
        exports: Exports,
        deployment: Deployment,
    ) -> None:
        self._audit = audit
        self._usage = usage
        self._revocations = revocations
        self._quotas = quotas
        self._tenants = tenants
        self._exports = exports
        self._deployment = deployment

    async def GetHealth(self, request: pb.GetHealthRequest, context: Context) -> health_pb2.Health:
        report = await self._deployment.health(caller(context))
        tell_edge(report.state)
        return convert_health.deployment_to(report)

    async def GetVersion(self, request: pb.GetVersionRequest, context: Context) -> version_pb2.Version:
        return convert_health.version_to(self._deployment.what_runs(caller(context)))

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Context) -> pb.ListAuditEventsResponse:
        return convert.audit_events_to(await self._audit.list_events(caller(context), **convert.asked_from(request)))

    async def CreateRevocation(
        self, request: pb.CreateRevocationRequest, context: Context
    ) -> revocation_pb2.Revocation:
        created = await self._revocations.create(
            convert.new_revocation_from(request.revocation),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.revocation_to(created)

    async def ListRevocations(self, request: pb.ListRevocationsRequest, context: Context) -> pb.ListRevocationsResponse:
        listed = await self._revocations.list_revocations(caller(context), **convert.asked_from(request))
        return convert.revocations_to(listed)

    async def DeleteRevocation(
        self, request: pb.DeleteRevocationRequest, context: Context
    ) -> revocation_pb2.Revocation:
        deleted = await self._revocations.delete(
            request.name,
            caller(context),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.revocation_to(deleted)

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> quota_pb2.Quota:
        return convert.quota_to(await self._quotas.get(convert.tenant_from(request.name, of="quotas"), caller(context)))

    async def UpdateQuota(self, request: pb.UpdateQuotaRequest, context: Context) -> quota_pb2.Quota:
        asked = request.quota
        updated = await self._quotas.update(
            convert.tenant_from(asked.name, of="quotas", field="quota.name"),
            amounts_from(asked.limits) if asked.HasField("limits") else None,
            request.update_mask.paths,
            caller(context),
            etag=asked.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.quota_to(updated)

    async def GetUsage(self, request: pb.GetUsageRequest, context: Context) -> pb.GetUsageResponse:
        report = await self._usage.report(caller(context), **convert_usage.asked_from(request))
        return convert_usage.report_to(report)

    async def GetTenant(self, request: pb.GetTenantRequest, context: Context) -> tenant_pb2.Tenant:
        tenant = convert.tenant_from(request.name, of="tenants")
        return convert.tenant_to(await self._tenants.get(tenant, caller(context)))

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, context: Context) -> tenant_pb2.Tenant:
        deleted = await self._tenants.delete(
            convert.tenant_from(request.name, of="tenants"),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.tenant_to(deleted)

    async def RestoreTenant(self, request: pb.RestoreTenantRequest, context: Context) -> tenant_pb2.Tenant:
        restored = await self._tenants.restore(
            convert.tenant_from(request.name, of="tenants"),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.tenant_to(restored)

    async def ExportTenant(
        self, request: pb.ExportTenantRequest, context: Context
    ) -> AsyncIterator[pb.ExportTenantResponse]:
        tenant = convert.tenant_from(request.name, of="tenants")
        call = current_call()
        exported = self._exports.export(
            tenant,
            caller(context),
            originals=not request.without_originals,
            timeout_s=call.remaining_s() if call else None,
        )
        async with aclosing(exported):
            async for each in exported:
                yield convert.exported_to(each)


class QuotaServicer(QuotaServiceServicer):
    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas

    async def GetQuotaLimits(
        self, request: internal_pb.GetQuotaLimitsRequest, context: Context
    ) -> internal_pb.GetQuotaLimitsResponse:
        limits = await self._quotas.limits_of(caller(context).tenant)
        return internal_pb.GetQuotaLimitsResponse(limits=amounts_to(limits))


class UsageServicer(UsageServiceServicer):
    def __init__(self, usage: SearchUsage) -> None:
        self._usage = usage

    async def RecordUsage(self, request: usage_pb.RecordUsageRequest, context: Context) -> usage_pb.RecordUsageResponse:
        await self._usage.add(request.batch_id, convert_usage.rows_from(request))
        return usage_pb.RecordUsageResponse()
