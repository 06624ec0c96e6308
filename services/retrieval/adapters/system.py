"""The system service, which keeps the figures of searches."""

from collections.abc import Sequence

import grpc

from ragweave.internal.v1 import usage_service_pb2 as pb
from ragweave.internal.v1.usage_service_pb2_grpc import UsageServiceStub
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller, acting_for
from services.retrieval.tally import HOUR_S, HourTally


class SystemUsage:
    """Fulfils UsageSink.

    Args:
        self_caller: Whom figures are sent as: they belong to no caller's call.
    """

    def __init__(self, channel: grpc.aio.Channel, self_caller: Caller) -> None:
        self._service = UsageServiceStub(channel)
        self._self_caller = self_caller

    async def record(self, batch_id: str, tallies: Sequence[HourTally]) -> None:
        request = pb.RecordUsageRequest(batch_id=batch_id, rows=map(_row, tallies))
        try:
            with acting_for(self._self_caller):
                await self._service.RecordUsage(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:  # it would be no other the next time
                raise
            raise DependencyUnavailable(f"system does not take usage: {error.code().name}") from None


def _row(tally: HourTally) -> pb.RecordUsageRequest.Row:
    row = pb.RecordUsageRequest.Row(
        tenant=tally.tenant,
        collection_uid=tally.collection_uid,
        collection_id=tally.collection_id,
        queries=tally.queries,
        errors=tally.errors,
        degraded=tally.degraded,
        zero_results=tally.zero_results,
        cache_hits=tally.cache_hits,
        latencies=tally.latencies,
    )
    row.time.FromSeconds(tally.hour * HOUR_S)
    return row
