"""Writes of the index, for the services that own documents: encoded, counted, durable when they return."""

import asyncio
import math
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from services.mesh.errors import CollectionNotFound, FailedPrecondition, InvalidArgument, LeaseLost
from services.retrieval.chunks import Chunk, DocumentFields, EncodedChunk, IndexId, IndexStats
from services.retrieval.collection import CollectionView
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.filterable import NOBODY
from services.retrieval.ports import IndexRevisions, VectorStore
from services.retrieval.scaling import SparseScales
from services.retrieval.sparse import document_vector, encoder_for

_FLOAT_BYTES = 4
_ERASED_AT_ONCE = 20


class Indexer:
    """What IndexService does. Every write returns the index revision that shows it; repeating one is harmless."""

    def __init__(
        self, store: VectorStore, collections: CollectionsMirror, revisions: IndexRevisions, scales: SparseScales
    ) -> None:
        self._store = store
        self._collections = collections
        self._revisions = revisions
        self._scales = scales
        self._ensured: set[IndexId] = set()
        self._turns: WeakValueDictionary[tuple[IndexId, str], asyncio.Lock] = WeakValueDictionary()

    async def upsert(self, index: IndexId, chunks: Sequence[tuple[Chunk, bytes]]) -> int:
        """Keeps chunks of one document with their vectors (little-endian float32).

        Raises:
            CollectionNotFound: The collection is gone.
            InvalidArgument: A vector is not of the collection's model.
            LeaseLost: Somebody else has written whose turn was later.
        """
        collection = await self._collections.by_uid(index)
        for position, (_, vector) in enumerate(chunks):
            _check_vector(f"chunks[{position}].vector", vector, collection.dimension)
        if index not in self._ensured:
            await self._make(index, collection)
        encoder = encoder_for(collection.language)
        counts = await asyncio.to_thread(lambda: [encoder.counts(chunk.searched_text) for chunk, _ in chunks])
        document = chunks[0][0].document
        async with self._turn(index, document.document_id, document.fence), self._scales.writing(index):
            scale = await self._scales.scale_for(index, [each.total() for each in counts])
            encoded = [
                EncodedChunk(chunk, vector, document_vector(count, scale), count.total(), scale)
                for (chunk, vector), count in zip(chunks, counts, strict=True)
            ]
            try:
                await self._store.upsert(index, encoded)
            except LookupError:  # dropped since it was ensured
                self._ensured.discard(index)
                raise CollectionNotFound(f"no collection with uid {index!r}", collection_uid=index) from None
        return await self._wrote(index)

    async def retire(
        self, index: IndexId, document_id: str, keep_revision_key: str, expected_chunks: int, fence: int = 0
    ) -> int:
        """Makes one revision the only one of its document.

        Raises:
            FailedPrecondition: It has fewer chunks than it must; nothing was deleted.
            LeaseLost: Somebody else has written whose turn was later.
        """
        async with self._turn(index, document_id, fence):
            kept = await self._store.count(index, document_id, keep_revision_key)
            if kept < expected_chunks:
                raise FailedPrecondition(
                    f"document {document_id!r} has {kept} chunks of revision {keep_revision_key!r}, "
                    f"not {expected_chunks}"
                )
            await self._store.retire(index, document_id, keep_revision_key)
        return await self._wrote(index)

    async def delete(self, index: IndexId, document_ids: Sequence[str], fence: int = 0) -> int:
        """Deletes documents' chunks; those that have none are passed over.

        Raises:
            LeaseLost: Somebody else has written to one of them whose turn was later; nothing was deleted of it or of
                those after it.
        """
        if not fence:
            await self._store.delete_documents(index, document_ids)
        for each in document_ids if fence else ():
            async with self._turn(index, each, fence):
                await self._store.delete_documents(index, [each])
        return await self._wrote(index)

    async def update_fields(self, index: IndexId, document: DocumentFields) -> int:
        """Replaces title, source_uri, metadata and principals of a document's chunks.

        Raises:
            LeaseLost: Somebody else has written whose turn was later.
        """
        fields: dict[str, Any] = {
            "title": document.title,
            "source_uri": document.source_uri,
            "metadata": dict(document.metadata),
            "principals": list(document.principals),
        }
        if document.fence:
            fields["fence"] = document.fence
        async with self._turn(index, document.document_id, document.fence):
            await self._store.set_fields(index, [document.document_id], fields, generation=document.generation)
        return await self._revisions.bump(index)

    async def hide(self, index: IndexId, generations: Mapping[str, int]) -> int:
        """Hides documents, by id with their generation, from every search until `update_fields` of a later one.

        Their chunks stay as they are but for who may find them: nobody. So hiding costs searches nothing.
        """
        for generation in sorted(set(generations.values())):
            ids = [document_id for document_id, each in generations.items() if each == generation]
            await self._store.set_fields(index, ids, {"principals": [NOBODY]}, generation=generation)
        return await self._revisions.bump(index)

    async def list_chunks(
        self, index: IndexId, document_id: str, from_ordinal: int, limit: int
    ) -> tuple[Sequence[Chunk], int]:
        """Chunks of a document from an ordinal on, and how many it has in all."""
        chunks, total = await asyncio.gather(
            self._store.list_chunks(index, document_id, from_ordinal, limit), self._store.count(index, document_id)
        )
        return chunks, total

    async def stats(self, index: IndexId) -> tuple[IndexStats, int]:
        """Sizes of the index, and its revision."""
        stats, revision = await asyncio.gather(self._store.stats(index), self._revisions.current(index))
        return stats, revision

    async def drop(self, index: IndexId) -> None:
        """Deletes the index; no write brings it back, since uids are not used again."""
        await self._store.drop(index)
        self._ensured.discard(index)
        self._scales.forget(index)
        await self._revisions.bump(index)

    async def erase(self, tenant: str) -> int:
        """Deletes some of the tenant's indexes, with all that is known of them; returns how many these were.

        What still writes to them meanwhile finds no collection.
        """
        found = {*await self._revisions.of(tenant), *self._collections.of_tenant(tenant)}
        for index in sorted(found)[:_ERASED_AT_ONCE]:
            self._collections.forget(index)
            await self.drop(index)
            await self._revisions.forget(tenant, index)
        return min(len(found), _ERASED_AT_ONCE)

    async def _make(self, index: IndexId, collection: CollectionView) -> None:
        """Makes the index, noting first whose it is; one whose collection was deleted meanwhile does not stay."""
        await self._revisions.claim(collection.tenant, index)
        await self._store.ensure_index(index, collection.dimension)
        try:
            await self._collections.by_uid(index)
        except CollectionNotFound:
            await self._store.drop(index)
            raise
        self._ensured.add(index)

    @asynccontextmanager
    async def _turn(self, index: IndexId, document_id: str, fence: int) -> AsyncIterator[None]:
        """Refuses who comes late: a worker that was asleep while its lease ran out and another did its work."""
        if not fence:
            yield
            return
        async with self._turns.setdefault((index, document_id), asyncio.Lock()):
            if await self._store.count(index, document_id, above=fence):
                raise LeaseLost(f"document {document_id!r} has been written by somebody whose turn was later")
            yield

    async def _wrote(self, index: IndexId) -> int:
        revision = await self._revisions.bump(index)
        await self._scales.wrote(index)
        return revision


def _check_vector(field: str, vector: bytes, dimension: int) -> None:
    if len(vector) != dimension * _FLOAT_BYTES:
        found = f"{len(vector)} bytes"
        raise InvalidArgument.of(field, f"takes {dimension} float32 ({dimension * _FLOAT_BYTES} bytes), found {found}")
    if not math.isfinite(math.fsum(array("f", vector))):
        raise InvalidArgument.of(field, "has a value that is not finite")
