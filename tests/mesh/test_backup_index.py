"""Who makes a backup holds the index of a retrieval service: over a real channel, and not for longer than it lives."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from ragweave.backups.errors import BackupError
from ragweave.internal.v1 import backup_service_pb2 as pb
from ragweave.internal.v1.backup_service_pb2_grpc import BackupServiceStub, add_BackupServiceServicer_to_server
from services.mesh.identity import Caller
from services.retrieval.index_backup import IndexBackup
from services.retrieval.servicer import BackupServicer
from services.system.adapters.grpc_index import GrpcIndex
from tests.mesh.harness import World

NAME = "20261121T031500Z"
ITSELF = Caller.of_service("system", "default")


class FakeStore:
    """A store that says whether its writes wait, and where it was copied to."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.released = asyncio.Event()
        self.copied: list[Path] = []

    @asynccontextmanager
    async def copying(self, target: Path) -> AsyncIterator[None]:
        self.held.set()
        try:
            yield
        finally:
            self.released.set()
        self.copied.append(target)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
async def port(world: World, store: FakeStore, tmp_path: Path) -> AsyncIterator[int]:
    (tmp_path / f".{NAME}.partial").mkdir()
    servicer = BackupServicer(IndexBackup(store, tmp_path))
    async with world.serving(add_BackupServiceServicer_to_server, servicer, name="retrieval") as listening:
        yield listening


async def test_writes_wait_inside_the_block_and_the_copy_is_there_after_it(
    world: World, port: int, store: FakeStore, tmp_path: Path
) -> None:
    async with world.channel_as(port, ITSELF, service="system") as channel:
        async with GrpcIndex(channel, ITSELF).hold(NAME):
            assert store.held.is_set() and not store.released.is_set()
        assert store.copied == [tmp_path / f".{NAME}.partial" / "index"]


async def test_who_gives_up_or_dies_releases_the_writes(world: World, port: int, store: FakeStore) -> None:
    async with world.channel_as(port, ITSELF, service="system") as channel:
        with pytest.raises(ZeroDivisionError):
            async with GrpcIndex(channel, ITSELF).hold(NAME):
                raise ZeroDivisionError
        await asyncio.wait_for(store.released.wait(), 30)
    assert store.copied == []


async def test_a_retrieval_that_does_not_copy_says_why_in_one_sentence(world: World, port: int) -> None:
    async with world.channel_as(port, ITSELF, service="system") as channel:
        with pytest.raises(BackupError, match="RAGWEAVE_BACKUP_DIR"):
            async with GrpcIndex(channel, ITSELF).hold("20261122T031500Z"):
                pass
    async with world.channel_as(1, ITSELF, service="system") as nobody:
        with pytest.raises(BackupError, match="UNAVAILABLE"):
            async with GrpcIndex(nobody, ITSELF).hold(NAME):
                pass


@pytest.mark.parametrize("name", ["../../etc", "x", "20261121T031500Z/..", "/tmp"])
async def test_a_backup_has_a_name_and_never_a_path(world: World, port: int, store: FakeStore, name: str) -> None:
    async with world.channel_as(port, ITSELF, service="system") as channel:
        with pytest.raises(BackupError, match="INVALID_ARGUMENT"):
            async with GrpcIndex(channel, ITSELF).hold(name):
                pass
    assert not store.held.is_set()


async def test_callers_from_outside_may_not_hold_the_index(world: World, port: int, store: FakeStore) -> None:
    async with world.channel(port) as outside:
        call = BackupServiceStub(outside).CopyIndex(
            iter([pb.CopyIndexRequest(backup=NAME)]), metadata=world.bearer(roles=["admin"])
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await anext(aiter(call))
    assert refused.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    assert not store.held.is_set()
