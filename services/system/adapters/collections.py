"""Usage, as the registry counts it."""

import grpc

from ragweave.internal.v1 import registry_service_pb2 as pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.mesh.errors import DependencyUnavailable
from services.mesh.quotas import Amounts, amounts_from


class RegistryUsage:
    """Fulfils Usage."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = RegistryServiceStub(channel)

    async def of_caller(self) -> Amounts:
        try:
            answer = await self._service.GetTenantUsage(pb.GetTenantUsageRequest())
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise DependencyUnavailable(
                "collections is unavailable", retry_after_s=1.0, service="collections"
            ) from None
        return amounts_from(answer.usage)
