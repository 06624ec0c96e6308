"""Making a backup: of every part as it is at one instant, while the mesh works or while it is down.

What the parts say of one another is then what a power cut at that instant would have left, from which they recover
(docs/adr/0016-a-backup-is-one-instant.md).
"""

import asyncio
import errno
import fcntl
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ragweave.backups import redis
from ragweave.backups.contents import StoredBytes, listed, size_on_disk
from ragweave.backups.erased import DELETED_TENANTS, erased_tenants, merged
from ragweave.backups.errors import BackupError
from ragweave.backups.manifest import Collection, Entry, Manifest, name_at
from ragweave.backups.places import BLOBS, DATABASES, INDEX, REDIS, REGISTRY, SYSTEM, VERSION_TABLES, Places
from ragweave.backups.shelf import Shelf
from ragweave.backups.sqlite import HeldDatabase
from ragweave.copying import copy_tree, seal

# What must stay free on the disk of the backups.
_SPARE_BYTES: Final = 64 * 2**20
_COLLECTIONS: Final = (
    "SELECT uid, tenant, collection_id, document_count, chunk_count FROM collections WHERE delete_time IS NULL"
)

HoldIndex = Callable[[str], AbstractAsyncContextManager[None]]
"""Given a backup's name, copies the index into it. Its writes wait inside the block; after it, all is there."""


@dataclass(frozen=True, slots=True)
class _Instant:
    """What was found while everything was held.

    Attributes:
        revisions: How far each index had come, by its collection's uid.
    """

    moment: datetime
    revisions: Mapping[str, int]
    held_s: float


class Taker:
    """Makes backups of one machine's mesh.

    Args:
        hold_index: None while the mesh is down: then its files are copied as they are.
        say: Is told what is being done.
    """

    def __init__(
        self, shelf: Shelf, places: Places, hold_index: HoldIndex | None, *, say: Callable[[str], None] = lambda _: None
    ) -> None:
        self._shelf = shelf
        self._places = places
        self._hold_index = hold_index
        self._say = say
        self._running = hold_index is not None

    async def take(self, *, unless_after: str | None = None) -> Manifest:
        """Makes a backup and returns what it says of itself; it is on disk then.

        Args:
            unless_after: The newest backup as the caller knows it, "" for none: where there is a newer one by now, that
                is the answer. None makes one in any case.

        Raises:
            BackupBusy: Another is being made.
            BackupError: It cannot be made; nothing is left of it.
        """
        with self._shelf.working():
            newest = self._shelf.newest()
            if newest and unless_after is not None and newest.name > unless_after:
                return newest
            began_s = time.monotonic()
            name = await self._new_name()
            folder = self._shelf.partial(name)
            folder.mkdir(mode=0o700)
            try:
                manifest = await self._filled(name, folder)
                self._say("write to disk")
                await asyncio.to_thread(seal, folder)
                manifest = replace(manifest, took_s=round(time.monotonic() - began_s, 3))
                await asyncio.to_thread(manifest.store, folder)
                self._shelf.publish(name)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                raise BackupError(f"no space is left for {self._shelf.folder}") from None
            finally:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            self._shelf.note_erased(manifest.erased)
            return manifest

    async def _new_name(self) -> str:
        """The present second's; a later one where that has its backup."""
        while (name := name_at(datetime.now(UTC))) in self._shelf.names():  # noqa: ASYNC110 - until the second is over
            await asyncio.sleep(0.1)
        return name

    async def _filled(self, name: str, folder: Path) -> Manifest:
        before = await asyncio.to_thread(self._shelf.newest)
        former, known = (self._shelf.folder / before.name, before.files) if before else (None, {})
        stored = StoredBytes(self._places.parts[BLOBS], folder / BLOBS, former, known)
        await asyncio.to_thread(self._check_space, stored, known)
        self._say("copy originals and texts")
        await asyncio.to_thread(stored.copy)
        with ExitStack() as opened:
            databases = {
                part: opened.enter_context(HeldDatabase.open(self._places.database(part)))
                for part in DATABASES
                if part in self._places.parts and self._places.database(part).exists()
            }
            self._say("copy the index")
            instant = await self._held(name, folder, databases)
            self._say("copy the databases")
            for part, database in databases.items():
                (folder / part).mkdir(mode=0o700)
                await asyncio.to_thread(database.copy, folder / part / DATABASES[part])
            schemas = {part: _schema(part, database) for part, database in databases.items()}
            collections = _collections(databases.get(REGISTRY), instant.revisions)
            erased = merged(self._shelf.erased(), _erased(databases.get(SYSTEM)))
        self._say("copy what has come meanwhile")
        await asyncio.to_thread(stored.copy)
        await asyncio.to_thread(stored.copy_uploads)
        self._say("take checksums")
        files, copied_bytes = await asyncio.to_thread(listed, folder, former, known)
        return Manifest(
            name=name,
            time=instant.moment.isoformat(timespec="milliseconds"),
            version=version("ragweave"),
            held_s=round(instant.held_s, 4),
            disk_bytes=await asyncio.to_thread(size_on_disk, folder),
            copied_bytes=copied_bytes,
            parts={part: schemas.get(part, "") for part in self._places.parts},
            left_out=self._places.left_out,
            collections=collections,
            erased=erased,
            files=files,
        )

    async def _held(self, name: str, folder: Path, databases: Mapping[str, HeldDatabase]) -> _Instant:
        """Fixes every part at one instant, in which nothing is written to the index and the databases."""
        embedded = INDEX in self._places.parts
        async with AsyncExitStack() as opened:
            async with self._hold_index(name) if self._hold_index and embedded else self._at_rest(folder):
                began_s = time.monotonic()
                try:
                    for database in databases.values():
                        await asyncio.to_thread(database.hold)
                    for database in databases.values():
                        await asyncio.to_thread(database.pin)
                    moment = datetime.now(UTC)
                    writing = await self._jobs(folder, opened)
                    revisions = await self._revisions(databases.get(REGISTRY))
                finally:
                    for database in databases.values():
                        database.release()
                held_s = time.monotonic() - began_s
            await writing
        return _Instant(moment, revisions, held_s)

    async def _jobs(self, folder: Path, opened: AsyncExitStack) -> asyncio.Task[None]:
        """What writes Redis's part, as it is when this returns."""
        source = self._places.parts.get(REDIS)
        if source and self._running and self._places.socket:
            (folder / REDIS).mkdir(mode=0o700)
            snapshot = await opened.enter_async_context(redis.snapshot_of(self._places.socket))
            work = snapshot.write(redis.write_base(folder / REDIS))
        elif source and (source / redis.FOLDER).exists():
            (folder / REDIS).mkdir(mode=0o700)
            work = asyncio.to_thread(copy_tree, source / redis.FOLDER, folder / REDIS / redis.FOLDER)
        else:
            work = asyncio.sleep(0)
        writing = asyncio.create_task(work)
        opened.callback(writing.cancel)
        return writing

    async def _revisions(self, registry: HeldDatabase | None) -> dict[str, int]:
        if registry is None or not self._running or self._places.socket is None:
            return {}
        uids = [uid for uid, *_ in await asyncio.to_thread(registry.rows, _COLLECTIONS)]
        return dict(zip(uids, await redis.revisions(self._places.socket, uids), strict=True))

    @asynccontextmanager
    async def _at_rest(self, folder: Path) -> AsyncIterator[None]:
        """Copies the index's files, which nobody has open; nothing where it is on a server."""
        source = self._places.parts.get(INDEX)
        if source is None or not source.exists():
            yield
            return
        descriptor = os.open(source / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BackupError(f"{source} is open in a process that the mesh has left running") from None
            await asyncio.to_thread(copy_tree, source, folder / INDEX)
            (folder / INDEX / "lock").unlink()
            yield
        finally:
            os.close(descriptor)

    def _check_space(self, stored: StoredBytes, known: Mapping[str, Entry]) -> None:
        """Raises BackupError where the disk has no room for what has to be copied."""
        others = [path for part, path in self._places.parts.items() if part != BLOBS and path.exists()]
        needed = stored.new_bytes() + sum(map(size_on_disk, others)) + _SPARE_BYTES
        free = shutil.disk_usage(self._shelf.folder).free
        if free < needed:
            raise BackupError(
                f"a backup needs up to {needed / 2**20:.0f} MiB in {self._shelf.folder}, where {free / 2**20:.0f} MiB "
                "are free"
            )


def _schema(part: str, database: HeldDatabase) -> str:
    found = database.rows(f"SELECT version_num FROM {VERSION_TABLES[part]}")  # noqa: S608 - a constant of ours
    return str(found[0][0]) if found else ""


def _collections(registry: HeldDatabase | None, revisions: Mapping[str, int]) -> tuple[Collection, ...]:
    rows = registry.rows(_COLLECTIONS) if registry else []
    return tuple(
        Collection(uid, tenant, collection, revisions.get(uid, 0), documents, chunks)
        for uid, tenant, collection, documents, chunks in rows
    )


def _erased(system: HeldDatabase | None) -> dict[str, str]:
    return erased_tenants(system.rows(DELETED_TENANTS)) if system else {}
