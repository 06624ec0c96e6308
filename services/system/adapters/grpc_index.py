"""Retrieval, as who copies the index into a backup."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from ragweave.backups.errors import BackupError
from ragweave.internal.v1 import backup_service_pb2 as pb
from ragweave.internal.v1.backup_service_pb2_grpc import BackupServiceStub
from services.mesh.identity import Caller, acting_for


class GrpcIndex:
    """Gives a Taker its `HoldIndex`."""

    def __init__(self, channel: grpc.aio.Channel, itself: Caller) -> None:
        self._stub = BackupServiceStub(channel)
        self._itself = itself

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """See HoldIndex. Raises BackupError where retrieval does not see it through."""
        released = asyncio.Event()

        async def asked() -> AsyncIterator[pb.CopyIndexRequest]:
            yield pb.CopyIndexRequest(backup=name)
            await released.wait()
            yield pb.CopyIndexRequest()

        with acting_for(self._itself):
            call = self._stub.CopyIndex(asked())
        stages = aiter(call)
        try:
            await _reach(pb.CopyIndexResponse.HELD, stages)
            yield
            released.set()
            await _reach(pb.CopyIndexResponse.COPIED, stages)
        finally:
            call.cancel()


async def _reach(stage: pb.CopyIndexResponse.Stage.ValueType, stages: AsyncIterator[pb.CopyIndexResponse]) -> None:
    try:
        answer = await anext(stages)
    except grpc.aio.AioRpcError as error:
        raise BackupError(f"retrieval does not copy its index: {error.details()} ({error.code().name})") from None
    except StopAsyncIteration:
        raise BackupError("retrieval ended before its index was copied") from None
    if answer.stage != stage:
        raise BackupError("retrieval does not copy its index as it should")
