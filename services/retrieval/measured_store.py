"""The VectorStore port around another: what is asked of it is timed, and a part of its caller's trace."""

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.semconv.attributes.db_attributes import DB_COLLECTION_NAME, DB_OPERATION_NAME, DB_SYSTEM_NAME
from prometheus_client import REGISTRY, CollectorRegistry, Histogram

from services.mesh import traces
from services.mesh.filters import Filter, Path
from services.retrieval.chunks import (
    Chunk,
    Distance,
    EncodedChunk,
    Found,
    IndexId,
    IndexStats,
    LengthStats,
    Part,
    SparseVector,
    VectorQuery,
)
from services.retrieval.figures import store_families
from services.retrieval.ports import UnscaledChunk, VectorStore
from services.retrieval.values import Counts


class MeasuredVectorStore:
    """As VectorStore says, by the store it is given."""

    def __init__(self, store: VectorStore, registry: CollectorRegistry = REGISTRY) -> None:
        self._store = store
        self._seconds, self._failures = store_families(registry)
        self._known: dict[str, Histogram] = {}

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        with self._timed("ensure_index", index):
            await self._store.ensure_index(index, dimension, distance)

    async def drop(self, index: IndexId) -> None:
        with self._timed("drop", index):
            await self._store.drop(index)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        with self._timed("upsert", index):
            await self._store.upsert(index, chunks)

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        with self._timed("delete_documents", index):
            await self._store.delete_documents(index, document_ids)

    async def retire(self, index: IndexId, document_id: str, keep_revision_key: str) -> None:
        with self._timed("retire", index):
            await self._store.retire(index, document_id, keep_revision_key)

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        with self._timed("set_fields", index):
            await self._store.set_fields(index, document_ids, fields, generation=generation)

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        with self._timed("search", index):
            return await self._store.search(index, query)

    async def fetch(
        self, index: IndexId, keys: Sequence[int], chosen: Filter, left_out: Collection[Part] = ()
    ) -> Mapping[int, Chunk]:
        with self._timed("fetch", index):
            return await self._store.fetch(index, keys, chosen, left_out)

    async def vectors(self, index: IndexId, chosen: Filter, limit: int) -> Sequence[bytes]:
        with self._timed("vectors", index):
            return await self._store.vectors(index, chosen, limit)

    async def list_chunks(self, index: IndexId, document_id: str, from_ordinal: int, limit: int) -> Sequence[Chunk]:
        with self._timed("list_chunks", index):
            return await self._store.list_chunks(index, document_id, from_ordinal, limit)

    async def adjacent(self, index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
        with self._timed("adjacent", index):
            return await self._store.adjacent(index, chunks, reach, chosen)

    async def count_values(self, index: IndexId, paths: Sequence[Path], chosen: Filter) -> Counts:
        with self._timed("count_values", index):
            return await self._store.count_values(index, paths, chosen)

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        with self._timed("count", index):
            return await self._store.count(index, document_id, revision_key, above)

    async def stats(self, index: IndexId) -> IndexStats:
        with self._timed("stats", index):
            return await self._store.stats(index)

    async def length_stats(self, index: IndexId) -> LengthStats:
        with self._timed("length_stats", index):
            return await self._store.length_stats(index)

    async def of_scales(self, index: IndexId, scales: Collection[int], limit: int) -> Sequence[UnscaledChunk]:
        with self._timed("of_scales", index):
            return await self._store.of_scales(index, scales, limit)

    async def rescale(self, index: IndexId, scale: int, vectors: Mapping[str, SparseVector]) -> None:
        with self._timed("rescale", index):
            await self._store.rescale(index, scale, vectors)

    async def check(self) -> None:
        with self._timed("check"):
            await self._store.check()

    @contextmanager
    def _timed(self, operation: str, index: str = "") -> Iterator[None]:
        asked = {DB_SYSTEM_NAME: "qdrant", DB_OPERATION_NAME: operation, DB_COLLECTION_NAME: index}
        began_s = time.perf_counter()
        try:
            with traces.part("vector store", asked):
                yield
        except asyncio.CancelledError:  # whoever asked has left: no fault of the store
            raise
        except BaseException:
            self._failures.labels(operation).inc()
            raise
        finally:
            took_s = time.perf_counter() - began_s
            seconds = self._known.get(operation) or self._known.setdefault(operation, self._seconds.labels(operation))
            seconds.observe(took_s)
