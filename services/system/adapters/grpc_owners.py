"""The other services, as owners of what they keep of tenants."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from ragweave.internal.v1 import tenant_service_pb2 as pb
from ragweave.internal.v1.tenant_service_pb2_grpc import TenantServiceStub
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller, acting_for

_LATE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


class GrpcOwner:
    """Fulfils Owner."""

    def __init__(self, service: str, channel: grpc.aio.Channel) -> None:
        self._service = service
        self._stub = TenantServiceStub(channel)

    @property
    def service(self) -> str:
        return self._service

    async def erase(self, tenant: str) -> bool:
        with self._asked_for(tenant):
            return (await self._stub.EraseTenant(pb.EraseTenantRequest())).erased

    async def admit(self, tenant: str) -> None:
        with self._asked_for(tenant):
            await self._stub.AdmitTenant(pb.AdmitTenantRequest())

    @contextmanager
    def _asked_for(self, tenant: str) -> Iterator[None]:
        """Calls inside the block are this service's own, for the tenant: it may be denied, and nobody waits."""
        try:
            with acting_for(Caller.of_service("system", tenant)):
                yield
        except grpc.aio.AioRpcError as error:
            if error.code() not in _LATE:
                raise
            raise DependencyUnavailable(
                f"{self._service} is unavailable", retry_after_s=1.0, service=self._service
            ) from None
