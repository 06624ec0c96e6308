"""The CollectionChanges port over RegistryService."""

from collections.abc import AsyncIterator, Sequence

import grpc

from ragweave.internal.v1 import registry_service_pb2 as pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.jobs.events import CollectionChange
from services.mesh.convert_times import time_from
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller, acting_for


class OutboxClient:
    """Changes of collections as their owner's outbox has them.

    Args:
        self_caller: Whom the stream is followed as: it belongs to no caller's call.
    """

    def __init__(self, channel: grpc.aio.Channel, self_caller: Caller) -> None:
        self._stub = RegistryServiceStub(channel)
        self._self_caller = self_caller

    async def follow(self, after: int) -> AsyncIterator[Sequence[CollectionChange] | int]:
        with acting_for(self._self_caller):
            request = pb.WatchCollectionChangesRequest(after_sequence=after)
            stream = self._stub.WatchCollectionChanges(request, wait_for_ready=True)
        first = True
        try:
            async for response in stream:
                yield response.last_sequence if first else [_change_from(each) for each in response.changes]
                first = False
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable(f"the stream of changes of collections failed ({error.code().name})") from None
        raise DependencyUnavailable("the stream of changes of collections ended")


def _change_from(change: pb.CollectionChange) -> CollectionChange:
    record = change.record
    return CollectionChange(
        sequence=record.sequence,
        tenant=record.tenant,
        topic=change.kind,
        time=time_from(change.event_time, "event_time"),
        collection_id=record.collection.name.rpartition("/")[2],
        collection=record.collection.SerializeToString(),
    )
