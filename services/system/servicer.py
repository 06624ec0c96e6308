"""The service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from ragweave.v1 import quota_pb2, revocation_pb2, tenant_pb2
from ragweave.v1 import system_service_pb2 as pb
from ragweave.v1.system_service_pb2_grpc import SystemServiceServicer
from services.mesh.errors import NotServed
from services.mesh.identity import caller
from services.system import convert
from services.system.audit import Audit

Context = grpc.aio.ServicerContext[Any, Any]


class SystemServicer(SystemServiceServicer):
    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Context) -> pb.ListAuditEventsResponse:
        return convert.audit_events_to(await self._audit.list_events(caller(context), **convert.asked_from(request)))

    async def CreateRevocation(
        self, request: pb.CreateRevocationRequest, context: Context
    ) -> revocation_pb2.Revocation:
        raise NotServed("CreateRevocation is not served yet")

    async def ListRevocations(self, request: pb.ListRevocationsRequest, context: Context) -> pb.ListRevocationsResponse:
        raise NotServed("ListRevocations is not served yet")

    async def DeleteRevocation(
        self, request: pb.DeleteRevocationRequest, context: Context
    ) -> revocation_pb2.Revocation:
        raise NotServed("DeleteRevocation is not served yet")

    async def GetQuota(self, request: pb.GetQuotaRequest, context: Context) -> quota_pb2.Quota:
        raise NotServed("GetQuota is not served yet")

    async def UpdateQuota(self, request: pb.UpdateQuotaRequest, context: Context) -> quota_pb2.Quota:
        raise NotServed("UpdateQuota is not served yet")

    async def GetTenant(self, request: pb.GetTenantRequest, context: Context) -> tenant_pb2.Tenant:
        raise NotServed("GetTenant is not served yet")

    async def DeleteTenant(self, request: pb.DeleteTenantRequest, context: Context) -> tenant_pb2.Tenant:
        raise NotServed("DeleteTenant is not served yet")

    async def RestoreTenant(self, request: pb.RestoreTenantRequest, context: Context) -> tenant_pb2.Tenant:
        raise NotServed("RestoreTenant is not served yet")

    async def ExportTenant(
        self, request: pb.ExportTenantRequest, context: Context
    ) -> AsyncIterator[pb.ExportTenantResponse]:
        raise NotServed("ExportTenant is not served yet")
        yield  # a stream, whatever it sends
