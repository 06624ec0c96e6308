"""How documents are written: the registry decides, the index follows before anyone is answered."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TypeAlias

from services.collections.document_changes import purging, unsettled
from services.collections.ports import Index, RegistryStore
from services.collections.records import Collection, Document, now
from services.collections.text import collection_id_of
from services.mesh.errors import CollectionDisabled, CollectionNotFound, DocumentNotFound
from services.mesh.identity import Caller
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt

# Given what there is of one document, deleted or not, what there shall be; by id.
Change: TypeAlias = Callable[[Mapping[str, Document]], Document]


class Overtaken(Exception):
    """Another writer changed the document first; holds it as it now is."""

    def __init__(self, latest: Document) -> None:
        super().__init__(latest.name)
        self.latest = latest


class DocumentWriter:
    """Single writes that may be repeated, and pushes to the index that end with the registry and it saying the same.

    A push is announced in the registry, made, and then counted down: what a crash leaves announced is pushed again by
    `Upkeep`. Pushes carry the document's generation, so that one of before a deletion never shows what is deleted.
    """

    def __init__(self, store: RegistryStore, index: Index) -> None:
        self._store = store
        self._index = index

    async def collection(self, parent: str, who: Caller, *, writing: bool = False) -> Collection:
        """Raises CollectionNotFound; with `writing` CollectionDisabled."""
        collection_id = collection_id_of(parent, field="parent")
        collection = await self._store.find_collection(who.tenant, collection_id)
        if collection is None:
            raise CollectionNotFound(f"no collection {collection_id!r}", collection=collection_id)
        if writing and collection.disabled:
            raise CollectionDisabled(f"{collection.name} is disabled", collection=collection.name)
        return collection

    async def write(
        self,
        collection: Collection,
        document_id: str,
        change: Change,
        receipt: Receipt | None = None,
        *,
        limits: Amounts | None = None,
    ) -> Document:
        """The document as `change` makes it; or what an earlier request with the receipt was answered."""
        (written,) = await self._store.write_documents(
            collection, [document_id], lambda found: {document_id: change(found)}, receipt, limits=limits
        )
        return written

    async def begin(self, collection: Collection, document: Document) -> Document:
        """The document as it is now, with one more push announced; raises DocumentNotFound where it is gone."""
        return await self.write(collection, document.document_id, lambda found: unsettled(still(document, found)))

    async def settle(self, collection: Collection, document: Document, pushes: int = 1) -> None:
        """Makes the index hold what the registry holds, and ends `pushes` that were begun."""
        while True:
            if document.delete_time:
                await self._index.hide(collection, [document])
            else:
                await self._index.update_fields(document)
            try:
                await self.write(collection, document.document_id, settling(document, document, pushes))
                return
            except Overtaken as overtaken:
                document = overtaken.latest

    async def purge(self, collection: Collection, deleted: Iterable[Document]) -> None:
        """Lets deleted documents go for good: from now on none comes back; then index, then rows. May be repeated."""
        uids = {document.document_id: document.uid for document in deleted}
        if not uids:
            return

        def remove(found: Mapping[str, Document]) -> Mapping[str, None]:
            return {name: None for name, each in found.items() if each.purging and each.uid == uids[name]}

        with suppress(CollectionNotFound):  # it went, and takes them with it
            marked = await self._store.write_documents(
                collection, list(uids), lambda found: purging(found.values(), uids)
            )
            going = [each.document_id for each in marked if each.purging]
            if going:
                await self._index.delete_documents(collection, going)
                await self._store.write_documents(collection, going, remove)


def settling(current: Document, changed: Document, pushes: int) -> Change:
    """Writes `changed`, whose fields the index holds now, unless the document is no longer `current`.

    Another push that has begun or ended meanwhile may have come after ours with other fields, if ours are new.
    """

    def settle(found: Mapping[str, Document]) -> Document:
        latest = still(current, found)
        alone = changed is current or latest.unsettled_time == current.unsettled_time
        if latest.etag != current.etag or not alone:
            raise Overtaken(latest)
        return pushed(replace(changed, unsettled=latest.unsettled, fence=latest.fence), pushes)

    return settle


def pushed(document: Document, pushes: int = 1) -> Document:
    """The document with so many pushes fewer under way; those that still are can tell."""
    left = max(document.unsettled - pushes, 0)
    return replace(document, unsettled=left, unsettled_time=now() if left else None)


def still(current: Document, found: Mapping[str, Document]) -> Document:
    """The same document as it now is, deleted or not. Raises DocumentNotFound where it is gone."""
    latest = found.get(current.document_id)
    if latest is None or latest.uid != current.uid:
        raise no_document(current.name)
    return latest


def no_document(name: str) -> DocumentNotFound:
    return DocumentNotFound(f"no document {name!r}", document=name)
