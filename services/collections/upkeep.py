"""What the registry does by itself: ends what was interrupted, deletes what has expired."""

from collections.abc import Awaitable, Sequence
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
from services.mesh.maintenance import Step

# Longer than any call that could still be at work on it.
_INTERRUPTED: Final = timedelta(seconds=60)
_BATCH: Final = 500
_DELETE: Final = "/ragweave.v1.CollectionService/DeleteCollection"


class Upkeep:
    """The registry's steps of maintenance."""

    def __init__(self, store: RegistryStore, registry: Registry, documents: Documents, trail: Trail) -> None:
        self._trail = trail
        self._store = store
        self._registry = registry
        self._documents = documents
        self._log = structlog.get_logger("collections.upkeep")

    @property
    def steps(self) -> Sequence[Step]:
        return (
            Step("expire collections", self._expire_all),
            Step("finish deleted collections", self._finish_collections),
            Step("finish documents", self._finish_documents),
            Step("forget answers", self._forget_answers),
        )

    async def _expire_all(self) -> int:
        expired = await self._store.expired_collections(now())
        return sum([await self._try("expire", each, self._expire(each)) for each in expired])

    async def _finish_collections(self) -> int:
        deleted = await self._store.deleted_collections(before=now() - _INTERRUPTED)
        return sum([await self._try("delete", each, self._registry.finish_deletion(each)) for each in deleted])

    async def _finish_documents(self) -> int:
        unfinished = await self._store.unfinished_documents(now() - _INTERRUPTED, _BATCH)
        return sum([await self._try("finish", parent, self._finish(parent, each)) for parent, each in unfinished])

    async def _forget_answers(self) -> int:
        return await self._store.prune_receipts(now())

    async def _expire(self, collection: Collection) -> None:
        who = _acting(collection)
        async with audited(self._trail, who, _DELETE, collection.name):
            await self._registry.delete(collection.collection_id, who, etag=collection.etag, force=True)

    async def _finish(self, collection: Collection, document: Document) -> None:
        if document.delete_time:
            await self._documents.finish_deletion(collection, [document])
        else:
            await self._documents.settle(collection, document, document.unsettled)

    async def _try(self, step: str, collection: Collection, work: Awaitable[None]) -> bool:
        """Does the work for the collection's tenant, since nobody calls; whether it was done."""
        try:
            with acting_for(_acting(collection)):
                await work
        except (CollectionNotFound, DocumentNotFound, EtagMismatch):
            pass  # changed or gone since it was listed
        except DependencyUnavailable as error:
            self._log.info("upkeep put off", step=step, collection=collection.name, reason=error.message)
        except Exception:
            self._log.exception("upkeep failed", step=step, collection=collection.name, tenant=collection.tenant)
        else:
            return True
        return False


def _acting(collection: Collection) -> Caller:
    return Caller.of_service("collections", collection.tenant)
