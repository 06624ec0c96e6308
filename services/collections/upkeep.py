"""What the registry does by itself: ends what was interrupted, deletes what has expired."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Final

import structlog

from services.collections.documents import Documents
from services.collections.ports import RegistryStore
from services.collections.records import Collection, Document, now
from services.collections.registry import Registry
from services.mesh.audit import Trail, audited
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, DocumentNotFound, EtagMismatch
from services.mesh.identity import Caller, acting_for

# Longer than any call that could still be at work on it.
_INTERRUPTED: Final = timedelta(seconds=60)
_BATCH: Final = 500
_DELETE: Final = "/ragweave.v1.CollectionService/DeleteCollection"


class Upkeep:
    """Sweeps the registry now and then. Every step may be repeated, and by several processes at once."""

    def __init__(
        self, store: RegistryStore, registry: Registry, documents: Documents, trail: Trail, *, interval_s: float
    ) -> None:
        self._trail = trail
        self._store = store
        self._registry = registry
        self._documents = documents
        self._interval_s = interval_s
        self._log = structlog.get_logger("collections.upkeep")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Sweeps inside the block, from its beginning on."""
        sweeping = asyncio.create_task(self._run())
        try:
            yield
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping

    async def sweep(self) -> None:
        """Does once what there is to do; a step that fails is left for the next sweep."""
        at = now()
        interrupted = at - _INTERRUPTED
        for collection in await self._store.expired_collections(at):
            await self._try("expire", collection, self._expire(collection))
        for collection in await self._store.deleted_collections(before=interrupted):
            await self._try("delete", collection, self._registry.finish_deletion(collection))
        for collection, document in await self._store.unfinished_documents(interrupted, _BATCH):
            await self._try("finish", collection, self._finish(collection, document))
        await self._store.prune_receipts(at)

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except DependencyUnavailable:
                self._log.warning("sweep put off: the registry's database does not answer")
            except Exception:
                self._log.exception("sweep failed")
            await asyncio.sleep(self._interval_s)

    async def _expire(self, collection: Collection) -> None:
        who = _acting(collection)
        async with audited(self._trail, who, _DELETE, collection.name):
            await self._registry.delete(collection.collection_id, who, etag=collection.etag, force=True)

    async def _finish(self, collection: Collection, document: Document) -> None:
        if document.delete_time:
            await self._documents.finish_deletion(collection, [document])
        else:
            await self._documents.settle(collection, document, document.unsettled)

    async def _try(self, step: str, collection: Collection, work: Awaitable[None]) -> None:
        """Does the work for the collection's tenant, since nobody calls."""
        try:
            with acting_for(_acting(collection)):
                await work
        except (CollectionNotFound, DocumentNotFound, EtagMismatch):
            pass  # changed or gone since it was listed
        except DependencyUnavailable as error:
            self._log.info("upkeep put off", step=step, collection=collection.name, reason=error.message)
        except Exception:
            self._log.exception("upkeep failed", step=step, collection=collection.name, tenant=collection.tenant)


def _acting(collection: Collection) -> Caller:
    return Caller.of_service("collections", collection.tenant)
