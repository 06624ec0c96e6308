"""What the registry does by itself: ends what was interrupted, deletes what has expired, purges what was deleted."""

from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import Final

import structlog

from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_writer import DocumentWriter
from services.collections.imports import Imports
from services.collections.ports import RegistryStore
from services.collections.records import Collection, Document, now
from services.mesh.audit import Trail, audited
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, DocumentNotFound, EtagMismatch
from services.mesh.identity import Caller, acting_for
from services.mesh.maintenance import Step

# Longer than any call that could still be at work on it.
_INTERRUPTED: Final = timedelta(seconds=60)
_BATCH: Final = 500
# An import is queued within the call that records its document.
_WAITED: Final = timedelta(minutes=10)
_WAITING_EVERY_S: Final = 300.0
_DELETE: Final = "/ragweave.v1.CollectionService/DeleteCollection"


class Upkeep:
    """The registry's steps of maintenance."""

    def __init__(
        self,
        store: RegistryStore,
        deletions: CollectionDeletions,
        writer: DocumentWriter,
        imports: Imports,
        trail: Trail,
    ) -> None:
        self._trail = trail
        self._store = store
        self._deletions = deletions
        self._writer = writer
        self._imports = imports
        self._log = structlog.get_logger("collections.upkeep")

    @property
    def steps(self) -> Sequence[Step]:
        return (
            Step("expire collections", self._expire_all),
            Step("settle collections", self._settle_collections),
            Step("purge collections", self._purge_collections),
            Step("settle documents", self._settle_documents),
            Step("purge documents", self._purge_documents),
            Step("look after waiting documents", self._look_after_waiting, every_s=_WAITING_EVERY_S),
            Step("forget answers", self._forget_answers),
        )

    async def _expire_all(self) -> int:
        expired = await self._store.expired_collections(now())
        return sum([await self._try("expire", each, self._expire(each)) for each in expired])

    async def _settle_collections(self) -> int:
        unsettled = await self._store.unsettled_collections(now() - _INTERRUPTED)
        return sum([await self._try("settle", each, self._deletions.finish(each)) for each in unsettled])

    async def _purge_collections(self) -> int:
        due = await self._store.collections_to_purge(now() - _INTERRUPTED)
        return sum([await self._try("purge", each, self._deletions.purge(each)) for each in due])

    async def _settle_documents(self) -> int:
        settled = 0
        for parent, each in await self._store.unfinished_documents(now() - _INTERRUPTED, _BATCH):
            settled += await self._try("settle", parent, self._writer.settle(parent, each, each.unsettled))
        return settled

    async def _purge_documents(self) -> int:
        due: dict[str, tuple[Collection, list[Document]]] = {}
        for parent, each in await self._store.documents_to_purge(now() - _INTERRUPTED, _BATCH):
            due.setdefault(parent.uid, (parent, []))[1].append(each)
        purged = 0
        for parent, documents in due.values():
            purged += len(documents) * await self._try("purge", parent, self._writer.purge(parent, documents))
        return purged

    async def _look_after_waiting(self) -> int:
        """Looks at every document that waits for its import, a page at a time, and for each tenant on its own."""
        before, after, ended = now() - _WAITED, "", 0
        while waiting := await self._store.pending_documents(before, after, _BATCH):
            after = waiting[-1][1].uid
            by_tenant: dict[str, list[tuple[Collection, Document]]] = {}
            for parent, each in waiting:
                by_tenant.setdefault(parent.tenant, []).append((parent, each))
            for some in by_tenant.values():
                ended += await self._try("look after", some[0][0], self._imports.look_after(some))
        return ended

    async def _forget_answers(self) -> int:
        return await self._store.prune_receipts(now())

    async def _expire(self, collection: Collection) -> None:
        who = _acting(collection)
        async with audited(self._trail, who, _DELETE, collection.name):
            await self._deletions.delete(collection.collection_id, who, etag=collection.etag, force=True)

    async def _try(self, step: str, collection: Collection, work: Awaitable[int | None]) -> int:
        """Does the work for the collection's tenant, since nobody calls; how much was done, 1 where it does not say."""
        try:
            with acting_for(_acting(collection)):
                done = await work
        except (CollectionNotFound, DocumentNotFound, EtagMismatch):
            pass  # changed or gone since it was listed
        except DependencyUnavailable as error:
            self._log.info("upkeep put off", step=step, collection=collection.name, reason=error.message)
        except Exception:
            self._log.exception("upkeep failed", step=step, collection=collection.name, tenant=collection.tenant)
        else:
            return 1 if done is None else done
        return 0


def _acting(collection: Collection) -> Caller:
    return Caller.of_service("collections", collection.tenant)
