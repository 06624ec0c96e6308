"""The embedded vector store: the port's questions as Qdrant Edge's engines are asked them."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any, Final

import structlog

from services.mesh import filters
from services.mesh.disk import Disk
from services.mesh.errors import DomainError
from services.mesh.filters import AllOf, Comparison, Filter, Has, Not, Operator, all_of, any_of
from services.retrieval.adapters.edge_copies import ShardCopies
from services.retrieval.adapters.edge_engine import told
from services.retrieval.adapters.edge_filter import recipe, recipe_of_counted, texts
from services.retrieval.adapters.edge_folder import FolderLock
from services.retrieval.adapters.edge_graphs import GraphBuilds
from services.retrieval.adapters.edge_placement import OpenIndex, Placement, cancelled
from services.retrieval.adapters.qdrant_keys import KEYWORDS, STEPS, Step
from services.retrieval.adapters.qdrant_payload import (
    adjacent_to,
    chunk_of,
    fields_payload,
    keys_of,
    not_beyond,
    payload_of,
    searched_text,
)
from services.retrieval.chunks import (
    Chunk,
    Distance,
    EncodedChunk,
    Found,
    IndexId,
    IndexStats,
    LengthStats,
    Part,
    ScoredChunk,
    SparseVector,
    StageScore,
    VectorQuery,
)
from services.retrieval.fusion import Rrf
from services.retrieval.ports import UnscaledChunk
from services.retrieval.values import Counts, ValueCounter

# Points written in one request: an engine answers queries between two of them, about 5 ms apart.
_POINTS_A_WRITE: Final = 64
_MOST_VALUES: Final = 1_000_000
# Chunks whose values an engine counts before it answers others: some 20 ms.
_COUNTED_AT_A_TIME: Final = 1000
# Indexes of payload keys that a shard may have, those from the start included: each takes some 50 bytes a point.
_MOST_INDEXED: Final = 24


class EdgeVectorStore:
    """Fulfils VectorStore and IndexCopies.

    Small indexes share one engine; one that grows gets a search graph, built beside it, and an engine of its own.

    Open it with `EdgeVectorStore.open`.
    """

    def __init__(self, placement: Placement, builds: GraphBuilds, disk: Disk, steps: Mapping[int, Step]) -> None:
        self._placement = placement
        self._indexes: Mapping[IndexId, OpenIndex] = placement.indexes
        self._read = placement.read
        self._write = placement.write
        self._builds = builds
        self._disk = disk
        self._steps = steps
        self._schema = max(steps)
        self._indexing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("retrieval.edge")

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        root: Path,
        *,
        build_threshold: int = 10_000,
        threads: int = 1,
        max_open: int = 64,
        idle_s: float = 600.0,
        reserve_bytes: int = 0,
        steps: Mapping[int, Step] = STEPS,
    ) -> AsyncIterator["EdgeVectorStore"]:
        """The store kept in the folder `root`, with its first engine running and every index of the present version.

        Args:
            build_threshold: Points without a graph that start a build; a twentieth of those with one, if that is more.
            threads: Threads of an engine, and of a build.
            max_open: Indexes the shared engine keeps open at a time.
            idle_s: An engine of a single index ends when unused for this long; the next use starts one again.
            reserve_bytes: Nothing is added while less than this is free on the disk: an engine that finds no room is
                killed by the kernel (SIGBUS), and cannot open its shards again before there is some.

        Raises:
            IndexLocked: Another process has the folder open.
            UnknownSchema: An index is of a newer version.
        """
        await asyncio.to_thread(root.mkdir, parents=True, exist_ok=True)
        async with AsyncExitStack() as opened:
            lock = await FolderLock.take(root)
            opened.callback(lock.release)
            disk = Disk(root, "the search index", reserve_bytes=reserve_bytes)
            bounds: dict[str, Any] = {"threads": threads, "max_open": max_open, "idle_s": idle_s}
            placement = Placement(root, lock, disk, schema=max(steps), **bounds)
            builds = GraphBuilds(placement, disk, threshold=build_threshold, threads=threads)
            store = cls(placement, builds, disk, steps)
            await asyncio.to_thread(placement.recover)
            opened.push_async_callback(placement.close)
            opened.push_async_callback(store._close)
            await placement.shared_engine()
            for index in placement.indexes.values():
                await store._upgrade(index)
            reaping = asyncio.create_task(placement.reap())
            opened.push_async_callback(cancelled, reaping)
            await opened.enter_async_context(placement.breaker.looking(store.check))
            yield store

    # The port.

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        await self._placement.ensure(index, dimension, distance)

    async def drop(self, index: IndexId) -> None:
        await self._placement.drop(index)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        into = self._indexes.get(index)
        if into is None:
            raise LookupError(f"no index {index}")
        for start in range(0, len(chunks), _POINTS_A_WRITE):
            self._disk.check()
            points = [_point(chunk) for chunk in chunks[start : start + _POINTS_A_WRITE]]
            await self._write(into, "upsert", points)
            await self._builds.wrote(into, len(points))

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        if document_ids:
            await self._delete(index, any_of(*map(_of_document, document_ids)))

    async def retire(self, index: IndexId, document_id: str, keep_revision_key: str) -> None:
        others = Not(Comparison(("revision_key",), Operator.EQ, keep_revision_key))
        await self._delete(index, AllOf((_of_document(document_id), others)))

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        into = self._indexes.get(index)
        if into is not None and document_ids:
            chosen = not_beyond(generation, document_ids)
            await self._write(into, "set_payload", recipe(chosen), fields_payload(fields, generation))

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        self._index_what_is_filtered_by(index, query.filter)
        answer = await self._read(
            index,
            "search",
            query.dense,
            None if query.sparse is None else _packed(query.sparse),
            recipe(query.filter),
            query.depth,
            astuple(query.fusion) if isinstance(query.fusion, Rrf) else None,
            query.limit,
            query.reference,
            query.min_similarity,
            query.exact,
            query.with_vectors,
            keys_of(query.left_out),
        )
        by_stage, candidates, hits = answer or ({}, 0, [])
        found = [
            ScoredChunk(chunk_of(payload), score, tuple(StageScore(*stage) for stage in stages), similarity, vector)
            for score, payload, stages, similarity, vector in hits
        ]
        return Found(found, candidates, by_stage)

    async def fetch(
        self, index: IndexId, keys: Sequence[int], chosen: Filter, left_out: Collection[Part] = ()
    ) -> Mapping[int, Chunk]:
        records = await self._read(index, "fetch", list(keys), recipe(chosen), keys_of(left_out)) or []
        return {key: chunk_of(payload) for key, payload in records}

    async def vectors(self, index: IndexId, chosen: Filter, limit: int) -> Sequence[bytes]:
        return await self._read(index, "vectors", recipe(chosen), limit) or []

    async def list_chunks(self, index: IndexId, document_id: str, from_ordinal: int, limit: int) -> Sequence[Chunk]:
        page = AllOf(
            (
                _of_document(document_id),
                Comparison(("ordinal",), Operator.GE, float(from_ordinal)),
                Comparison(("ordinal",), Operator.LT, float(from_ordinal + limit)),
            )
        )
        # While a document is imported anew, two revisions share the ordinals.
        records = await self._read(index, "scroll", recipe(page), 2 * limit, None) or []
        return sorted((chunk_of(payload) for _, payload in records), key=lambda chunk: (chunk.ordinal, chunk.chunk_id))

    async def adjacent(self, index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
        if not chunks:
            return []
        around = all_of(adjacent_to(chunks, reach), chosen)
        most = len(chunks) * (2 * reach + 1)
        records = await self._read(index, "scroll", recipe(around), most, None, keys_of([Part.METADATA])) or []
        return [chunk_of(payload) for _, payload in records]

    async def count_values(self, index: IndexId, paths: Sequence[filters.Path], chosen: Filter) -> Counts:
        # In parts, between which the engine answers others.
        wanted, counter, start = recipe(chosen), ValueCounter(paths), None
        while answer := await self._read(index, "count_values", list(paths), wanted, _COUNTED_AT_A_TIME, start):
            counts, start = answer
            counter.add(counts)
            if start is None:
                break
        return counter.counts

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        parts: tuple[Filter, ...] = (_of_document(document_id),) if document_id else ()
        if revision_key:
            parts = (*parts, Comparison(("revision_key",), Operator.EQ, revision_key))
        if above >= 0:
            parts = (*parts, Comparison(("fence",), Operator.GT, float(above)))
        return await self._read(index, "count", recipe(AllOf(parts))) or 0

    async def stats(self, index: IndexId) -> IndexStats:
        chunks = await self._read(index, "info") or 0
        known = self._indexes.get(index)
        if known is None:
            return IndexStats(0, 0)
        unindexed = await self._placement.unindexed(known)
        return IndexStats(chunks, max(0, min(chunks - unindexed, known.manifest.built_points)))

    async def length_stats(self, index: IndexId) -> LengthStats:
        lengths = await self._read(index, "facet", "length", _MOST_VALUES) or {}
        scales = await self._read(index, "facet", "scale", _MOST_VALUES) or {}
        total = sum(length * count for length, count in lengths.items())
        return LengthStats(sum(lengths.values()), total, scales)

    async def of_scales(self, index: IndexId, scales: Collection[int], limit: int) -> Sequence[UnscaledChunk]:
        chosen = recipe_of_counted("scale", scales)
        records = await self._read(index, "scroll", chosen, limit, ["text", "context"]) or []
        return [UnscaledChunk(key, searched_text(payload)) for key, payload in records]

    async def rescale(self, index: IndexId, scale: int, vectors: Mapping[str, SparseVector]) -> None:
        into = self._indexes.get(index)
        if into is not None:
            sent = [(int(key), *_packed(vector)) for key, vector in vectors.items()]
            await self._write(into, "rescale", scale, sent)

    async def check(self) -> None:
        with told("ping"):
            await (await self._placement.shared_engine()).request("ping")

    # What else the embedded store does.

    async def build(self, index: IndexId) -> None:
        """Builds the graph of an index now, and returns when searches use it."""
        await self._builds.build(self._indexes[index])

    @asynccontextmanager
    async def copying(self, target: Path) -> AsyncIterator[None]:
        """Fulfils IndexCopies; no graph is built meanwhile."""
        with told("copy"):
            copies = ShardCopies(self._placement, self._builds.building)
            async with copies.copying(target):
                yield

    def pids(self) -> list[int]:
        """The engines that run."""
        return self._placement.pids()

    async def _delete(self, index: IndexId, chosen: Filter) -> None:
        known = self._indexes.get(index)
        if known is not None:
            deleted = await self._write(known, "delete", recipe(chosen))
            self._builds.deleted(known, deleted)

    # Indexes of payload keys.

    def _index_what_is_filtered_by(self, index: IndexId, tree: Filter) -> None:
        """Has each key that a large index is filtered by for the first time get an index, in the background.

        Without one the engine reads the payload of each point that it looks at: of all of them, where few pass.
        """
        known = self._indexes.get(index)
        if known is None or not known.manifest.built_points:
            return
        new = texts(tree).difference(known.filtered_by, KEYWORDS)
        if new and len(known.filtered_by) < _MOST_INDEXED:
            known.filtered_by |= new
            task = asyncio.create_task(self._index_keys(known, sorted(new)))
            self._indexing.add(task)
            task.add_done_callback(self._indexing.discard)

    async def _index_keys(self, index: OpenIndex, keys: Sequence[str]) -> None:
        try:
            await self._write(index, "index", keys, [], _MOST_INDEXED)
        except DomainError as error:  # searches go on without
            self._log.warning("keys of payloads got no index", folder=str(index.shard), keys=keys, error=error.message)

    async def _upgrade(self, index: OpenIndex) -> None:
        """Takes the steps that an older index lacks; the folder's lock keeps others away meanwhile."""
        before = index.manifest.schema
        for version in range(before + 1, self._schema + 1):
            step = self._steps[version]
            await self._write(index, "index", step.keywords, step.integers)
            for key, value in step.defaults.items():
                await self._write(index, "set_payload", recipe(Not(Has((key,)))), {key: value})
            manifest = replace(index.manifest, schema=version)
            await asyncio.to_thread(index.folder.store, manifest)
            index.manifest = manifest
        if index.manifest.schema != before:
            self._log.info("index upgraded", folder=str(index.shard), before=before, now=self._schema)

    async def _close(self) -> None:
        for task in tuple(self._indexing):
            await cancelled(task)


def _of_document(document_id: str) -> Filter:
    return Comparison(("document",), Operator.EQ, document_id)


def _point(encoded: EncodedChunk) -> tuple[int, bytes, bytes, bytes, dict[str, Any]]:
    id_ = encoded.chunk.key
    return id_, encoded.vector, *_packed(encoded.sparse), payload_of(encoded)


def _packed(vector: SparseVector) -> tuple[bytes, bytes]:
    return array("I", vector.indices).tobytes(), array("f", vector.values).tobytes()
