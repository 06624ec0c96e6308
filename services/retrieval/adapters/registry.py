"""The registry of collections, from the collections service."""

from collections.abc import AsyncGenerator

import grpc

from ragweave.internal.v1 import registry_service_pb2 as pb
from ragweave.internal.v1.registry_service_pb2_grpc import RegistryServiceStub
from services.mesh.calls import current_call
from services.mesh.errors import DependencyUnavailable
from services.mesh.identity import Caller, acting_for
from services.retrieval.collection import Changes, CollectionView
from services.retrieval.convert import view_from


class RegistryClient:
    """Fulfils Registry.

    Args:
        self_caller: Whom the stream is followed as: it belongs to no caller's call.
    """

    def __init__(self, channel: grpc.aio.Channel, self_caller: Caller) -> None:
        self._service = RegistryServiceStub(channel)
        self._self_caller = self_caller

    async def get(self, collection_id: str) -> CollectionView | None:
        try:
            request = pb.GetCollectionRecordRequest(collection_id=collection_id)
            return view_from(await self._service.GetCollectionRecord(request))
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.NOT_FOUND:
                    return None
                case grpc.StatusCode.UNAVAILABLE:
                    raise DependencyUnavailable(
                        f"collection {collection_id!r} is not known here, and the collections service, which may know "
                        "it, is unavailable",
                        retry_after_s=1.0,
                    ) from None
            raise

    async def watch(self, after_sequence: int) -> AsyncGenerator[Changes, None]:
        with acting_for(self._self_caller):
            request = pb.WatchCollectionsRequest(after_sequence=after_sequence)
            # Nobody waits for what is followed all the time: it begins as soon as the registry is there.
            stream = self._service.WatchCollections(request, wait_for_ready=current_call() is None)
        try:
            async for response in stream:
                yield Changes([view_from(record) for record in response.records], response.snapshot_complete)
        except grpc.aio.AioRpcError as error:
            raise DependencyUnavailable(f"the stream of collections failed ({error.code().name})") from None
        raise DependencyUnavailable("the stream of collections ended")
