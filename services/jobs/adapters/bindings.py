"""The Bindings port over RegistryService."""

from collections.abc import AsyncIterator, Mapping

import grpc

from ragweave.internal.v1 import registry_service_pb2 as pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.jobs.adapters.registry import directory_from
from services.jobs.ports_bindings import Binding
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller, acting_for


class BindingsClient:
    """Collections that follow a directory by themselves, as their owner tells of them.

    Args:
        self_caller: Whom the stream is followed as: it belongs to no caller's call.
    """

    def __init__(self, channel: grpc.aio.Channel, self_caller: Caller) -> None:
        self._stub = RegistryServiceStub(channel)
        self._self_caller = self_caller

    async def follow(self) -> AsyncIterator[Mapping[str, Binding | None]]:
        with acting_for(self._self_caller):
            stream = self._stub.WatchCollections(pb.WatchCollectionsRequest(), wait_for_ready=True)
        try:
            async for response in stream:
                yield {record.collection.uid: _binding_from(record) for record in response.records}
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable(f"the stream of collections failed ({error.code().name})") from None
        raise DependencyUnavailable("the stream of collections ended")


def _binding_from(record: pb.CollectionRecord) -> Binding | None:
    collection = record.collection
    source = directory_from(collection.source)
    if record.deleted or collection.disabled or source is None or not collection.source.auto_sync:
        return None
    return Binding(record.tenant, collection.name.rpartition("/")[2], source)
