"""The embedded vector store: Qdrant Edge in engine processes of its own, graphs built on copies beside them."""

import asyncio
import contextlib
import os
import subprocess
from array import array
from collections.abc import AsyncIterator, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import structlog

from services.mesh import filters
from services.mesh.breakers import Breaker, breaker_of, failing
from services.mesh.disk import Disk
from services.mesh.errors import DependencyUnavailable, DiskFull, DomainError, FailedPrecondition, IndexFailed
from services.mesh.filters import AllOf, Comparison, Filter, Has, Not, Operator, all_of, any_of
from services.retrieval.adapters.edge_copies import ShardCopies, replay
from services.retrieval.adapters.edge_engine import EdgeEngine, EngineDied, EngineFailed, ShardMissing, spawn
from services.retrieval.adapters.edge_filter import recipe, recipe_of_counted, texts
from services.retrieval.adapters.edge_folder import FolderLock, IndexFolder, Manifest
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
from services.retrieval.figures import BuildFigures
from services.retrieval.fusion import Rrf
from services.retrieval.ports import VECTOR_STORE, UnscaledChunk
from services.retrieval.values import Counts, ValueCounter

# Points written in one request: an engine answers queries between two of them, about 5 ms apart.
_POINTS_A_WRITE: Final = 64
_MOST_VALUES: Final = 1_000_000
# Chunks whose values an engine counts before it answers others: some 20 ms.
_COUNTED_AT_A_TIME: Final = 1000
_REBUILT_SHARE_DELETED: Final = 0.2
# A build writes all of an index anew: a large one waits for more, which searches compare one by one (1.3 ms of 10,000).
_REBUILT_SHARE_UNINDEXED: Final = 0.05
_RETRY_BUILD_S: Final = 30.0
_REAP_EVERY_S: Final = 30.0
# Indexes of payload keys that a shard may have, those from the start included: each takes some 50 bytes a point.
_MOST_INDEXED: Final = 24
# What an engine that is gone, or does not start, is met with.
_DEAD: Final = failing(EngineDied, OSError)
# What a new shard may soon take: its write-ahead log is made in segments of 32 MiB, filled as they are used.
_EMPTY_SHARD_BYTES: Final = 32 * 2**20
# The copy of a shard, and beside it the graph with the segments that it is built in.
_SIZE_OF_BUILD: Final = 3


@dataclass
class _Index:
    """An index that is open: where it lives and what happened to it since its graph was built.

    Attributes:
        engine: An engine of its own, which an index with a graph gets; None: the shared one.
        writing: Held by each write, and by a build while it copies and while it switches.
        unindexed: Points written since; None until they have been counted.
        deleted: Points deleted since.
        breaker: Of an engine of its own: one that hangs leaves the others in use.
        filtered_by: Payload keys that searches of this shard compared with texts, for which an index was asked.
    """

    folder: IndexFolder
    manifest: Manifest
    engine: EdgeEngine | None = None
    breaker: Breaker | None = None
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    unindexed: int | None = None
    deleted: int = 0
    filtered_by: set[str] = field(default_factory=set)
    build: asyncio.Task[None] | None = None
    no_build_before_s: float = 0.0

    @property
    def shard(self) -> Path:
        return self.folder.shard(self.manifest.generation)


class EdgeVectorStore:
    """Fulfils VectorStore and IndexCopies.

    Small indexes share one engine. Once one has `build_threshold` points without a graph, its graph is built: the
    shard is copied (writes wait for that, reads do not), the copy optimised by a process of low priority, then a
    new engine opens it and repeats what was written meanwhile; the manifest names it, and searches go there from
    the next one on. A crash at any step leaves the old shard, complete.

    Open it with `EdgeVectorStore.open`.
    """

    def __init__(
        self,
        root: Path,
        lock: FolderLock,
        *,
        disk: Disk,
        build_threshold: int,
        threads: int,
        max_open: int,
        idle_s: float,
        steps: Mapping[int, Step],
    ) -> None:
        self._root = root
        self._lock = lock
        self._disk = disk
        self._build_threshold = build_threshold
        self._threads = threads
        self._max_open = max_open
        self._idle_s = idle_s
        self._steps = steps
        self._schema = max(steps)
        self._shared: EdgeEngine | None = None
        self._starting = asyncio.Lock()
        self._indexes: dict[IndexId, _Index] = {}
        self._creating = asyncio.Lock()
        self._building = asyncio.Lock()
        self._indexing: set[asyncio.Task[None]] = set()
        self._figures = BuildFigures()
        self._breaker = breaker_of(VECTOR_STORE)
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
            bounds: dict[str, Any] = {"threads": threads, "max_open": max_open, "idle_s": idle_s, "steps": steps}
            disk = Disk(root, "the search index", reserve_bytes=reserve_bytes)
            store = cls(root, lock, disk=disk, build_threshold=build_threshold, **bounds)
            await asyncio.to_thread(store._recover)
            opened.push_async_callback(store._close)
            await store._shared_engine()
            for index in store._indexes.values():
                await store._upgrade(index)
            reaping = asyncio.create_task(store._reap())
            opened.push_async_callback(_cancelled, reaping)
            await opened.enter_async_context(store._breaker.looking(store.check))
            yield store

    # The port.

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        async with self._creating:
            known = self._indexes.get(index)
            if known is None:
                self._disk.check(_EMPTY_SHARD_BYTES)
                folder = IndexFolder(self._root, index)
                manifest = Manifest(dimension, distance, self._schema)
                engine = await self._shared_engine()
                with _told("create"), self._breaker.asking(_DEAD):
                    await engine.request("close", folder.shard(0))  # of a creation that was given up half-way
                    await asyncio.to_thread(folder.clear, None)
                    await engine.request("create", folder.shard(0), dimension, distance.value, self._threads)
                await asyncio.to_thread(folder.store, manifest)
                self._indexes[index] = _Index(folder, manifest, unindexed=0)
            elif (known.manifest.dimension, known.manifest.distance) != (dimension, distance):
                found = f"{known.manifest.dimension} dimensions ({known.manifest.distance})"
                raise FailedPrecondition(f"the index has {found}, not {dimension} ({distance})")

    async def drop(self, index: IndexId) -> None:
        async with self._creating:
            gone = self._indexes.pop(index, None)
            if gone is None:
                return
            if gone.build is not None:
                await _cancelled(gone.build)
            async with gone.writing:
                await asyncio.to_thread(gone.folder.forget)
                await self._leave(gone.engine, gone.shard)
                await asyncio.to_thread(gone.folder.clear, None)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        into = self._indexes.get(index)
        if into is None:
            raise LookupError(f"no index {index}")
        for start in range(0, len(chunks), _POINTS_A_WRITE):
            self._disk.check()
            points = [_point(chunk) for chunk in chunks[start : start + _POINTS_A_WRITE]]
            await self._write(into, "upsert", points)
            await self._wrote(into, len(points))

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
        unindexed = await self._unindexed(known)
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
        with _told("ping"):
            await (await self._shared_engine()).request("ping")

    # What else the embedded store does.

    async def build(self, index: IndexId) -> None:
        """Builds the graph of an index now, and returns when searches use it."""
        known = self._indexes[index]
        self._start_build(known)
        if known.build is not None:
            await asyncio.shield(known.build)

    @asynccontextmanager
    async def copying(self, target: Path) -> AsyncIterator[None]:
        """Fulfils IndexCopies; no graph is built meanwhile."""

        async def place(index: IndexId) -> tuple[EdgeEngine, Path]:
            return await self._place(self._indexes[index])

        with _told("copy"):
            copies = ShardCopies(self._indexes, self._creating, self._building, place, self._start)
            async with copies.copying(target):
                yield

    def pids(self) -> list[int]:
        """The engines that run."""
        engines = (self._shared, *(index.engine for index in self._indexes.values()))
        return [engine.pid for engine in engines if engine is not None and engine.alive]

    # Reads and writes.

    async def _read(self, index: IndexId, operation: str, *arguments: Any) -> Any:
        """The engine's answer; None where there is no such index. Repeated once when the engine dies."""
        known = self._indexes.get(index)
        if known is None:
            return None
        with _told(operation), self._breaker_of(known).asking(_DEAD):
            for repeated in (False, True):
                known = self._indexes.get(index)
                if known is None:
                    break
                engine, shard = await self._place(known)
                try:
                    return await engine.request(operation, shard, *arguments)
                except (EngineDied, ShardMissing):
                    if repeated:
                        raise
        return None

    async def _write(self, index: _Index, operation: str, *arguments: Any) -> Any:
        with _told(operation):
            async with index.writing:
                with self._breaker_of(index).asking(_DEAD):
                    engine, shard = await self._place(index)
                    return await engine.request(operation, shard, *arguments)

    async def _delete(self, index: IndexId, chosen: Filter) -> None:
        known = self._indexes.get(index)
        if known is not None:
            deleted = await self._write(known, "delete", recipe(chosen))
            known.deleted += deleted
            self._build_if_due(known)

    async def _wrote(self, index: _Index, points: int) -> None:
        if index.unindexed is None:
            await self._unindexed(index)
        else:
            index.unindexed += points
        self._build_if_due(index)

    async def _unindexed(self, index: _Index) -> int:
        """Points without a graph; after a restart, those beyond what the graph was built of."""
        if index.unindexed is None:
            with _told("info"), self._breaker_of(index).asking(_DEAD):
                engine, shard = await self._place(index)
                points = await engine.request("info", shard)
            index.unindexed = max(0, points - index.manifest.built_points)
        return index.unindexed

    # Indexes of fields.

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

    async def _index_keys(self, index: _Index, keys: Sequence[str]) -> None:
        try:
            await self._write(index, "index", keys, [], _MOST_INDEXED)
        except DomainError as error:  # searches go on without
            self._log.warning("keys of payloads got no index", folder=str(index.shard), keys=keys, error=error.message)

    # Engines.

    def _breaker_of(self, index: _Index) -> Breaker:
        """What the engine that serves an index is asked through."""
        if not index.manifest.built_points:
            return self._breaker
        if index.breaker is None:
            index.breaker = self._breaker.part(lambda: self._ping(index))
        return index.breaker

    async def _ping(self, index: _Index) -> None:
        engine, _ = await self._place(index)
        await engine.request("ping")

    async def _place(self, index: _Index) -> tuple[EdgeEngine, Path]:
        """The engine that serves an index, and the shard to ask it for."""
        while not index.manifest.built_points:
            engine = await self._shared_engine()
            if not index.manifest.built_points:
                return engine, index.shard
        async with index.starting:
            if index.engine is None or not index.engine.alive:
                index.engine = await self._start()
            return index.engine, index.shard

    async def _shared_engine(self) -> EdgeEngine:
        if self._shared is not None and self._shared.alive:
            return self._shared
        async with self._starting:
            if self._shared is None or not self._shared.alive:
                self._shared = await self._start()
            return self._shared

    async def _start(self) -> EdgeEngine:
        return await EdgeEngine.start(max_open=self._max_open, keeping=self._lock.descriptor)

    async def _leave(self, engine: EdgeEngine | None, shard: Path) -> None:
        """Closes a shard no request will name again, with its engine where that served it alone."""
        if engine is not None:
            await engine.idle()
            await engine.stop()
        elif self._shared is not None and self._shared.alive:
            with contextlib.suppress(EngineDied):
                await self._shared.request("close", shard)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(min(_REAP_EVERY_S, self._idle_s))
            now_s = asyncio.get_running_loop().time()
            for index in list(self._indexes.values()):
                engine = index.engine
                if engine is not None and index.build is None and now_s - engine.asked_at_s > self._idle_s:
                    async with index.writing, index.starting:
                        index.engine = None
                        await engine.idle()
                        await engine.stop()

    # Building.

    def _build_if_due(self, index: _Index) -> None:
        built = index.manifest.built_points
        due = (index.unindexed or 0) >= points_that_start_a_build(self._build_threshold, built)
        due = due or bool(built and index.deleted >= max(self._build_threshold, _REBUILT_SHARE_DELETED * built))
        if due and asyncio.get_running_loop().time() >= index.no_build_before_s:
            self._start_build(index)

    def _start_build(self, index: _Index) -> None:
        if index.build is None:
            index.build = asyncio.create_task(self._build(index))

    async def _build(self, index: _Index) -> None:
        """Swaps the shard for a copy with a graph; where that fails, the shard stays and what was made is deleted."""
        live = index.manifest
        try:
            async with self._building:
                with self._figures.build():
                    await self._build_next(index)
        except (DiskFull, EngineDied, EngineFailed, ShardMissing, _BuilderFailed, OSError) as error:
            index.no_build_before_s = asyncio.get_running_loop().time() + _RETRY_BUILD_S
            self._log.warning("build of the index failed", folder=str(index.shard), error=repr(error))
        finally:
            index.build = None
            if index.manifest is live:
                index.unindexed = None
                await self._stop_journal(index)
            await asyncio.to_thread(index.folder.clear, index.manifest)
        if any(each is index for each in self._indexes.values()):
            self._build_if_due(index)  # of what was written meanwhile; there may be no other write for long

    async def _build_next(self, index: _Index) -> None:
        generation = index.manifest.generation + 1
        size = await asyncio.to_thread(index.folder.size_bytes, index.manifest.generation)
        self._disk.check(_SIZE_OF_BUILD * size)
        source, target, journal = index.shard, index.folder.shard(generation), index.folder.journal(generation)
        async with AsyncExitStack() as started:
            builder = await _Builder.start(source, target, index.manifest, self._threads)
            started.push_async_callback(builder.stop)
            old, _ = await self._place(index)
            async with index.writing:
                await old.request("journal", source, str(journal))
                await builder.copy()
                index.unindexed, index.deleted = 0, 0
            await builder.built()
            new = await self._start()
            started.push_async_callback(new.stop)
            replayed = await replay(new, target, journal, 0)
            async with index.writing, index.starting:
                await old.request("barrier", source)
                await replay(new, target, journal, replayed)
                points = await new.request("info", target)
                manifest = index.manifest.next(max(1, points - index.unindexed))
                await asyncio.to_thread(index.folder.store, manifest)
                former, index.engine, index.manifest = index.engine, new, manifest
                index.filtered_by.clear()  # some may have got their index after the copy
            started.pop_all()
        await _to_its_end(self._after(builder, former, source))
        self._log.info("index built", folder=str(target), points=points)

    async def _after(self, builder: "_Builder", former: EdgeEngine | None, source: Path) -> None:
        """Ends what served the shard that a build has replaced: its folder goes next."""
        await builder.stop()
        await self._leave(former, source)

    async def _stop_journal(self, index: _Index) -> None:
        engine = index.engine if index.manifest.built_points else self._shared
        if engine is not None and engine.alive:
            with contextlib.suppress(EngineDied, ShardMissing, EngineFailed):
                await engine.request("journal", index.shard, None)

    # Opening and closing.

    def _recover(self) -> None:
        for entry in sorted(self._root.iterdir()):
            if entry.is_dir():
                index = IndexId(entry.name)
                folder = IndexFolder(self._root, index)
                manifest = folder.load(self._schema)
                folder.clear(manifest)
                if manifest is not None:
                    self._indexes[index] = _Index(folder, manifest)

    async def _upgrade(self, index: _Index) -> None:
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
        for task in (*self._indexing, *(index.build for index in self._indexes.values())):
            if task is not None:
                await _cancelled(task)
        engines = [index.engine for index in self._indexes.values()]
        await asyncio.gather(*(engine.stop() for engine in (self._shared, *engines) if engine is not None))


def points_that_start_a_build(threshold: int, built: int) -> float:
    """How many points without a graph do, in an index where `built` have one."""
    return max(threshold, _REBUILT_SHARE_UNINDEXED * built)


class _BuilderFailed(Exception):
    """The process that builds a graph ended early."""


class _Builder:
    """The process that copies a shard and builds the copy's graph."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    async def start(cls, source: Path, target: Path, manifest: Manifest, threads: int) -> "_Builder":
        """Starts the process and returns when it is ready to copy."""
        arguments = (str(source), str(target), str(manifest.dimension), manifest.distance.value, str(threads))
        process = spawn("edge_build", str(os.getpid()), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        builder = cls(process)
        try:
            await builder._said("ready")
        except BaseException:
            await builder.stop()
            raise
        return builder

    async def copy(self) -> None:
        """Copies the shard; it must not be written meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and does not answer
            self._process.stdin.write(b"copy\n")
            self._process.stdin.flush()
        await self._said("copied")

    async def built(self) -> None:
        """Returns when the copy has its graph and is closed."""
        await self._said("built")

    async def stop(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    async def _said(self, word: str) -> None:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if line.strip() != word.encode():
            raise _BuilderFailed(f"ended before it was {word}")


@contextlib.contextmanager
def _told(operation: str) -> Iterator[None]:
    """Turns what an engine says into what callers may hear; Edge's own words go to the log."""
    try:
        yield
    except EngineDied as error:
        raise DependencyUnavailable("the vector index stopped while it worked; try again", retry_after_s=1.0) from error
    except ShardMissing as error:
        raise DependencyUnavailable("the vector index was deleted while it was asked") from error
    except EngineFailed as error:
        structlog.get_logger("retrieval.edge").error("engine failed", operation=operation, error=str(error))
        raise IndexFailed("the vector index failed at this request") from error


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Awaits what must not be left half done; who cancels it waits for it."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _of_document(document_id: str) -> Filter:
    return Comparison(("document",), Operator.EQ, document_id)


def _point(encoded: EncodedChunk) -> tuple[int, bytes, bytes, bytes, dict[str, Any]]:
    id_ = encoded.chunk.key
    return id_, encoded.vector, *_packed(encoded.sparse), payload_of(encoded)


def _packed(vector: SparseVector) -> tuple[bytes, bytes]:
    return array("I", vector.indices).tobytes(), array("f", vector.values).tobytes()
