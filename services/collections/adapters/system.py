"""Limits, as the system service keeps them."""

import grpc

from ragweave.internal.v1 import quota_service_pb2 as pb
from ragweave.internal.v1.quota_service_pb2_grpc import QuotaServiceStub
from services.mesh.errors import DependencyUnavailable
from services.mesh.quotas import Amounts, amounts_from


class SystemLimits:
    """Fulfils Limits."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = QuotaServiceStub(channel)

    async def of_caller(self) -> Amounts:
        try:
            answer = await self._service.GetQuotaLimits(pb.GetQuotaLimitsRequest())
        except grpc.aio.AioRpcError as error:  # whatever it is, limits are not to be had
            reason = f"system does not tell limits: {error.code().name}"
            raise DependencyUnavailable(reason, retry_after_s=1.0, service="system") from None
        return amounts_from(answer.limits)
