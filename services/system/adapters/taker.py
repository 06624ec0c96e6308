"""Backups of this machine's mesh while it works."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ragweave.backups.places import Places
from ragweave.backups.shelf import Shelf
from ragweave.backups.taking import Taker
from services.mesh.channels import open_channel
from services.mesh.identity import Caller
from services.mesh.settings import MeshSettings
from services.system.adapters.grpc_index import GrpcIndex


@asynccontextmanager
async def open_taker(
    mesh: MeshSettings, *, say: Callable[[str], None] = lambda _: None
) -> AsyncIterator[tuple[Shelf, Taker]]:
    """Who makes backups, and where they stand.

    Args:
        say: Is told what is being done.
    """
    async with open_channel(mesh, mesh.retrieval_target) as retrieval:
        index = GrpcIndex(retrieval, Caller.of_service("system", mesh.public_tenant))
        shelf = Shelf(mesh.backup_dir)
        yield shelf, Taker(shelf, Places.read(mesh.data_dir), index.hold, say=say)
