"""An engine: the process that holds Qdrant Edge's shards open and answers for them.

Run as `python -m services.retrieval.adapters.edge_child SOCKET_FD PARENT_PID MAX_OPEN`. Edge holds the GIL while it
works, so it works here and never in the service. One thread: reads go before writes, but no write waits for more than a
few reads.
"""

import ctypes
import math
import os
import selectors
import signal
import socket
import sys
from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, cast

import qdrant_edge as edge

from services.retrieval.adapters.edge_frames import FORGET, Unframer, packed
from services.retrieval.adapters.qdrant_keys import DENSE, INTEGERS, KEYWORDS, SPARSE
from services.retrieval.fusion import Dbsf, Rrf, merge, ranked
from services.retrieval.values import Counts, ValueCounter

_PR_SET_PDEATHSIG: Final = 1
_READS_BEFORE_A_WRITE: Final = 8
# Points written between two flushes: what a load replays at most, about 50 ms of it; a flush takes about 15 ms.
_POINTS_A_FLUSH: Final = 1000
_REPLAYED_AT_A_TIME: Final = 2**20
_READS: Final = frozenset({"search", "fetch", "vectors", "scroll", "count_values", "count", "facet", "info", "ping"})

Point = tuple[int, bytes, bytes, bytes, dict[str, Any]]
Recipe = dict[str, Any]
Hit = tuple[float, dict[str, Any], list[tuple[str, float, int]], float | None, bytes | None]
"""Score, payload, score and rank by stage, similarity, vector."""


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent ends, however it ends."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def built(recipe: Any) -> Any:
    """The object of qdrant_edge that a recipe describes (edge_filter.recipe makes them)."""
    match recipe:
        case {"type": str(name), "fields": dict(fields)}:
            return getattr(edge, name)(**{key: built(value) for key, value in fields.items()})
        case list():
            return [built(part) for part in recipe]
        case bool():
            import numpy  # not at the top: most engines never meet a boolean, and numpy takes 15 MB

            return numpy.bool_(recipe)  # qdrant_edge takes Python's bool for the integer it also is
    return recipe


class Shard:
    """One open shard, what it writes down for a copy being built, and the points not yet flushed."""

    def __init__(self, shard: edge.EdgeShard) -> None:
        self.edge = shard
        self.journal = -1
        self.unflushed = 0

    def close(self) -> None:
        self.write_down(None)
        self.edge.flush()
        self.edge.close()

    def write_down(self, path: str | None) -> None:
        if self.journal >= 0:
            os.close(self.journal)
        self.journal = -1 if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def wrote(self, points: int) -> None:
        self.unflushed += points
        if self.unflushed >= _POINTS_A_FLUSH:
            self.edge.flush()
            self.unflushed = 0


class Engine:
    """What an engine can be asked. Every operation names the shard's folder; shards open on first use.

    Args:
        max_open: Shards kept open; the one unused for longest is closed for another.
    """

    def __init__(self, max_open: int) -> None:
        self._max_open = max_open
        self._open: OrderedDict[str, Shard] = OrderedDict()

    def answer(self, message: list[Any]) -> Any:
        """The result of `[operation, folder, *arguments]`, written down where it changed a shard that is copied.

        Raises:
            FileNotFoundError: There is no such shard.
        """
        operation, folder, *arguments = message
        result = getattr(self, f"do_{operation}")(folder, *arguments)
        if operation in _WRITES and self._open[folder].journal >= 0:
            _append(self._open[folder].journal, packed([operation, *arguments]))
        return result

    def close(self) -> None:
        for shard in self._open.values():
            shard.close()

    def do_ping(self, folder: str) -> None:
        """Answers."""

    def do_barrier(self, folder: str) -> None:
        """Answers when every write sent before has been applied."""

    def do_create(self, folder: str, dimension: int, distance: str, threads: int) -> None:
        Path(folder).mkdir(parents=True)
        shard = edge.EdgeShard.create(folder, config_of(dimension, distance, threads))
        _index(shard, KEYWORDS, INTEGERS)
        self._keep(folder, Shard(shard))

    def do_index(self, folder: str, keywords: list[str], integers: list[str], most: int | None = None) -> None:
        """Gives payload keys their index, where they have none; not one more than `most` in all."""
        shard = self._shard(folder).edge
        known = shard.info().payload_schema
        wanted = [key for key in keywords if key not in known]
        _index(shard, wanted if most is None else wanted[: max(0, most - len(known))], integers)

    def do_close(self, folder: str) -> None:
        shard = self._open.pop(folder, None)
        if shard is not None:
            shard.close()

    def do_journal(self, folder: str, path: str | None) -> None:
        """From now on writes of the shard are appended to a new file at `path`; None ends it."""
        self._shard(folder).write_down(path)

    def do_replay(self, folder: str, path: str, offset: int) -> tuple[int, bool]:
        """Repeats writes of a journal from `offset`: where to go on, and whether that is its end for now."""
        unframer = Unframer()
        with Path(path).open("rb") as journal:
            journal.seek(offset)
            while data := journal.read(_REPLAYED_AT_A_TIME):
                for operation, *arguments in unframer.feed(data):
                    getattr(self, f"do_{operation}")(folder, *arguments)
                if unframer.consumed:
                    break
            offset += unframer.consumed
            return offset, os.fstat(journal.fileno()).st_size == offset

    def do_upsert(self, folder: str, points: list[Point]) -> None:
        shard = self._shard(folder)
        shard.edge.update(edge.UpdateOperation.upsert_points([_point(point) for point in points]))
        shard.wrote(len(points))

    def do_delete(self, folder: str, chosen: Recipe) -> int:
        """Deletes what the filter chooses: how many points."""
        shard, filter_ = self._shard(folder), built(chosen)
        count = int(shard.edge.count(edge.CountRequest(exact=True, filter=filter_)))
        if count:
            shard.edge.update(edge.UpdateOperation.delete_points_by_filter(filter_))
            shard.wrote(count)
        return count

    def do_set_payload(self, folder: str, chosen: Recipe, payload: dict[str, Any]) -> None:
        shard = self._shard(folder)
        shard.edge.update(edge.UpdateOperation.set_payload_by_filter(built(chosen), payload))
        shard.wrote(1)

    def do_rescale(self, folder: str, scale: int, vectors: list[tuple[int, bytes, bytes]]) -> None:
        """Replaces sparse vectors, then notes their scale: between the two, a point is merely rescaled again."""
        shard = self._shard(folder)
        sent: dict[Any, tuple[bytes, bytes]] = {id_: (indices, values) for id_, indices, values in vectors}
        known = [record.id for record in shard.edge.retrieve(list(sent), False, False)]
        if known:
            changed = [edge.PointVectors(id=id_, vector={SPARSE: _sparse(*sent[id_])}) for id_ in known]
            shard.edge.update(edge.UpdateOperation.update_vectors(changed))
            shard.edge.update(edge.UpdateOperation.set_payload(known, {"scale": scale}))
            shard.wrote(len(known))

    def do_search(
        self,
        folder: str,
        dense: bytes | None,
        sparse: tuple[bytes, bytes] | None,
        chosen: Recipe,
        depth: int,
        fusion: tuple[int, float, float] | None,
        limit: int,
        reference: bytes | None,
        min_similarity: float | None,
        exact: bool,
        with_vectors: bool,
        left_out: list[str],
    ) -> tuple[dict[str, int], int, list[Hit]]:
        """How many candidates each stage gave, how many different ones there were, and the hits."""
        shard, filter_ = self._shard(folder).edge, built(chosen)
        stages: dict[str, Any] = {}
        if dense is not None:
            stages[DENSE] = edge.Query.Nearest(_floats(dense), using=DENSE)
        if sparse is not None and sparse[0]:
            stages[SPARSE] = edge.Query.Nearest(_sparse(*sparse), using=SPARSE)
        params = edge.SearchParams(exact=exact)
        requests = [edge.QueryRequest(depth, query=query, filter=filter_, params=params) for query in stages.values()]
        answers = shard.query_batch(edge.QueryBatchRequest(requests)) if requests else []
        rankings = {
            stage: ranked([(point.id, point.score) for point in points])
            for stage, points in zip(stages, answers, strict=True)
        }
        if sparse is not None:
            rankings.setdefault(SPARSE, [])
        fused = merge(Rrf(*fusion) if fusion else Dbsf(), rankings.get(DENSE), rankings.get(SPARSE), settled=limit)
        candidates = len(fused)
        similarities: dict[Any, float] = {}
        if reference is not None and min_similarity is not None:
            similarities.update(rankings.get(DENSE, []))
            similarities.update(_similarities(shard, reference, [id_ for id_, _ in fused if id_ not in similarities]))
            fused = [hit for hit in fused if similarities.get(hit[0], -math.inf) >= min_similarity]
        hits = fused[:limit]
        ids = [id_ for id_, _ in hits]
        records = shard.retrieve(ids, _payload(left_out), [DENSE] if with_vectors else False) if ids else []
        payloads = {record.id: record.payload or {} for record in records}
        vectors = {record.id: _dense(record) for record in records} if with_vectors else {}
        places: dict[Any, list[tuple[str, float, int]]] = {id_: [] for id_ in ids}
        for stage, ranking in rankings.items():
            for rank, (id_, score) in enumerate(ranking, start=1):
                if id_ in places:
                    places[id_].append((stage, score, rank))
        found = [(score, payloads[id_], places[id_], similarities.get(id_), vectors.get(id_)) for id_, score in hits]
        return {stage: len(ranking) for stage, ranking in rankings.items()}, candidates, found

    def do_fetch(self, folder: str, keys: list[int], chosen: Recipe, left_out: list[str]) -> list[tuple[int, Any]]:
        """Payloads of some points, of those that the filter lets through."""
        filter_ = edge.Filter(must=[edge.HasIdCondition(set(keys)), built(chosen)])
        wanted = _payload(left_out)
        request = edge.ScrollRequest(limit=len(keys), filter=filter_, with_payload=wanted, with_vector=False)
        records, _ = self._shard(folder).edge.scroll(request)
        return [(int(record.id), record.payload or {}) for record in records]

    def do_vectors(self, folder: str, chosen: Recipe, limit: int) -> list[bytes]:
        """Dense vectors of some points that the filter chooses."""
        request = edge.ScrollRequest(limit=limit, filter=built(chosen), with_payload=False, with_vector=True)
        records, _ = self._shard(folder).edge.scroll(request)
        return [array("f", cast(Any, record.vector)[DENSE]).tobytes() for record in records]

    def do_scroll(
        self, folder: str, chosen: Recipe, limit: int, keys: list[str] | None, left_out: Sequence[str] = ()
    ) -> list[tuple[str, Any]]:
        """Ids and payloads of some points that the filter chooses: all of it, or some keys, or all but some."""
        wanted = _payload(left_out) if keys is None else keys
        request = edge.ScrollRequest(limit=limit, filter=built(chosen), with_payload=wanted, with_vector=False)
        records, _ = self._shard(folder).edge.scroll(request)
        return [(str(record.id), record.payload) for record in records]

    def do_count_values(
        self, folder: str, paths: list[list[str]], chosen: Recipe, limit: int, start: int | None
    ) -> tuple[Counts, int | None]:
        """Counts of values of some points that the filter chooses, and at which point the next ones begin."""
        request = edge.ScrollRequest(
            limit=limit, offset=start, filter=built(chosen), with_payload=["metadata"], with_vector=False
        )
        records, following = self._shard(folder).edge.scroll(request)
        counter = ValueCounter(paths)
        for record in records:
            counter.note(record.payload or {})
        return counter.counts, cast("int | None", following)

    def do_count(self, folder: str, chosen: Recipe) -> int:
        return int(self._shard(folder).edge.count(edge.CountRequest(exact=True, filter=built(chosen))))

    def do_facet(self, folder: str, key: str, limit: int) -> dict[int, int]:
        """How many points have each value at `key`."""
        facet = self._shard(folder).edge.facet(edge.FacetRequest(key, limit=limit, exact=True))
        return {hit.value: hit.count for hit in facet if hit.count}

    def do_info(self, folder: str) -> int:
        """Points of the shard."""
        return int(self._shard(folder).edge.info().points_count)

    def _shard(self, folder: str) -> Shard:
        if folder in self._open:
            self._open.move_to_end(folder)
            return self._open[folder]
        if not Path(folder).is_dir():
            raise FileNotFoundError(folder)
        return self._keep(folder, Shard(edge.EdgeShard.load(folder)))

    def _keep(self, folder: str, shard: Shard) -> Shard:
        self._open[folder] = shard
        idle = [name for name, each in self._open.items() if each.journal < 0 and each is not shard]
        for name in idle[: max(0, len(self._open) - self._max_open)]:
            self.do_close(name)
        return shard


_WRITES: Final = frozenset({"upsert", "delete", "set_payload", "rescale"})


def config_of(dimension: int, distance: str, threads: int) -> edge.EdgeConfig:
    """The shard's configuration: cosine or dot, sparse weights times IDF, a graph once optimise is called.

    Args:
        threads: Threads that read segments or build the graph.
    """
    metric = {"cosine": edge.Distance.Cosine, "dot": edge.Distance.Dot}[distance]
    return edge.EdgeConfig(
        vectors={DENSE: edge.EdgeVectorParams(size=dimension, distance=metric)},
        sparse_vectors={SPARSE: edge.EdgeSparseVectorParams(modifier=edge.Modifier.Idf)},
        # Thresholds are in kB; 1 indexes whatever there is: when to build is decided by the service.
        hnsw_config=edge.HnswIndexConfig(
            m=16, ef_construct=128, full_scan_threshold=10_000, max_indexing_threads=threads
        ),
        optimizers=edge.EdgeOptimizersConfig(indexing_threshold=1, default_segment_number=1),
        max_search_threads=threads,
    )


def _index(shard: edge.EdgeShard, keywords: Sequence[str], integers: Sequence[str]) -> None:
    for key in keywords:
        shard.update(edge.UpdateOperation.create_field_index(key, edge.PayloadSchemaType.Keyword))
    for key in integers:
        counted = edge.IntegerIndexParams(lookup=True, range=False)
        shard.update(edge.UpdateOperation.create_field_index(key, counted))
    shard.flush()


def serve(connection: socket.socket, engine: Engine) -> None:
    """Answers `[id, operation, folder, ...]` with `[id, true, result]` or `[id, false, kind, message]` to the end.

    `[id, FORGET]` takes back a read; one that has begun is answered all the same.
    """
    reads: deque[list[Any]] = deque()
    writes: deque[list[Any]] = deque()
    unframer = Unframer()
    waited = 0
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        while True:
            pending = bool(reads or writes)
            if selector.select(0 if pending else None):
                data = connection.recv(2**20)
                if not data:
                    return
                for message in unframer.feed(data):
                    if message[1] == FORGET:
                        _forget(message[0], reads, connection)
                    else:
                        (reads if message[1] in _READS else writes).append(message)
                continue
            if writes and (not reads or waited >= _READS_BEFORE_A_WRITE):
                message, waited = writes.popleft(), 0
            else:
                message, waited = reads.popleft(), waited + 1
            connection.sendall(_answer(engine, message))


def _forget(id_: int, reads: deque[list[Any]], connection: socket.socket) -> None:
    """Drops a read that waits; what has been answered already, or writes, is not concerned."""
    for message in reads:
        if message[0] == id_:
            reads.remove(message)
            connection.sendall(packed([id_, False, "forgotten", ""]))
            return


def _answer(engine: Engine, message: list[Any]) -> bytes:
    id_, *asked = message
    try:
        return packed([id_, True, engine.answer(asked)])
    except FileNotFoundError as error:
        return packed([id_, False, "missing", str(error)])
    except Exception as error:  # whatever Edge raises is the service's to tell; the engine goes on
        return packed([id_, False, "failed", f"{asked[0]}: {type(error).__name__}: {error}"])


def _point(point: Point) -> edge.Point:
    id_, dense, indices, values, payload = point
    vector: dict[str, Any] = {DENSE: _floats(dense)}
    if indices:
        vector[SPARSE] = _sparse(indices, values)
    return edge.Point(id=id_, vector=vector, payload=payload)


def _similarities(shard: edge.EdgeShard, reference: bytes, ids: Sequence[Any]) -> dict[Any, float]:
    """The dense score of some points, whatever their rank."""
    if not ids:
        return {}
    chosen = edge.Filter(must=[edge.HasIdCondition(set(ids))])
    nearest = edge.Query.Nearest(_floats(reference), using=DENSE)
    points = shard.query(
        edge.QueryRequest(len(ids), query=nearest, filter=chosen, params=edge.SearchParams(exact=True))
    )
    return {point.id: point.score for point in points}


def _sparse(indices: bytes, values: bytes) -> edge.SparseVector:
    return edge.SparseVector(indices=array("I", indices).tolist(), values=_floats(values))


def _payload(left_out: Sequence[str]) -> Any:
    return edge.PayloadSelector.Exclude(list(left_out)) if left_out else True


def _floats(packed_floats: bytes) -> list[float]:
    return array("f", packed_floats).tolist()


def _dense(record: edge.Record) -> bytes:
    vectors: Any = record.vector
    return array("f", vectors[DENSE]).tobytes()


def _append(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def main() -> None:
    descriptor, parent, max_open = map(int, sys.argv[1:4])
    die_with_parent(parent)
    # The service decides when its engines stop, after its last call; a supervisor's signal may reach the whole group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    engine = Engine(max_open)
    with socket.socket(fileno=descriptor) as connection:
        try:
            serve(connection, engine)
        except (ConnectionError, BrokenPipeError):
            return
    engine.close()


if __name__ == "__main__":
    main()
