"""The vector store on a Qdrant server or cluster, by qdrant-client over gRPC: one collection an index."""

import asyncio
import contextlib
import math
from array import array
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

import grpc
import httpx
import structlog
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from services.mesh.breakers import Verdict, breaker_of
from services.mesh.channels import RECONNECTING
from services.mesh.errors import DependencyUnavailable, FailedPrecondition, IndexFailed
from services.mesh.filters import AllOf, Comparison, Filter, Has, Not, Operator, Path, all_of, any_of
from services.mesh.schemas import too_new
from services.retrieval.adapters.qdrant_filter import QdrantFilters
from services.retrieval.adapters.qdrant_instants import KEY as INSTANTS
from services.retrieval.adapters.qdrant_keys import DENSE, SPARSE, STEPS, Step
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
from services.retrieval.fusion import Ranking, merge, ranked
from services.retrieval.ports import VECTOR_STORE, UnscaledChunk
from services.retrieval.values import Counts, ValueCounter

_REST_PORT: Final = 6333
# A server that vanished without a word is noticed within 15 s of a call to it; the next call gets a new connection.
_VANISHED: Final = {
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,  # or it is a minute, whatever the line above says
    "grpc.http2.max_pings_without_data": 0,
}
_POINTS_A_WRITE: Final = 256
_MOST_VALUES: Final = 100_000
_COUNTED_AT_A_TIME: Final = 1000
_SCHEMA_KEY: Final = "ragweave_schema"
_FILTERS: Final = QdrantFilters(models, instants={"metadata": INSTANTS})
_METRICS: Final = {Distance.COSINE: models.Distance.COSINE, Distance.DOT: models.Distance.DOT}
# What a server says, or is said of it, that is away or slow; any other code is of this one request.
_AWAY: Final = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

_ERRORS: Final = (grpc.RpcError, UnexpectedResponse, ResponseHandlingException, httpx.HTTPError)

# Every write waits until it is applied, and reaches the replicas of a shard in one order.
_WRITE: Final[dict[str, Any]] = {"wait": True, "ordering": models.WriteOrdering.STRONG}


# All of a payload, some of its keys, or all but some.
Payload: TypeAlias = bool | list[str] | models.PayloadSelectorExclude


class QdrantVectorStore:
    """Fulfils VectorStore.

    Args:
        client: Open client; stays the caller's.
        prefix: Before the uid in the names of Qdrant's collections, where several meshes share a cluster.
        replicas: Copies of each shard; a write is acknowledged by the majority, and so are reads answered.
    """

    def __init__(
        self,
        client: AsyncQdrantClient,
        *,
        prefix: str = "ragweave-",
        replicas: int = 1,
        steps: Mapping[int, Step] = STEPS,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._replicas = replicas
        self._read: dict[str, Any] = {"consistency": models.ReadConsistencyType.MAJORITY} if replicas > 1 else {}
        self._known: set[IndexId] = set()
        self._breaker = breaker_of(VECTOR_STORE)
        self._steps = steps

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, api_key: str = "", prefix: str = "ragweave-", replicas: int = 1, timeout_s: int = 30
    ) -> AsyncIterator["QdrantVectorStore"]:
        """A store on the server at `url`, such as http://127.0.0.1:6333; gRPC is looked for one port above."""
        client = AsyncQdrantClient(
            url=url,
            grpc_port=(urlsplit(url).port or _REST_PORT) + 1,
            api_key=api_key or None,
            prefer_grpc=True,
            timeout=timeout_s,
            check_compatibility=False,
            grpc_options={**RECONNECTING, **_VANISHED},
        )
        store = cls(client, prefix=prefix, replicas=replicas)
        try:
            async with store._breaker.looking(store.check):
                yield store
        finally:
            await client.close()

    async def ensure_index(self, index: IndexId, dimension: int, distance: Distance = Distance.COSINE) -> None:
        with self._told():
            if not await self._exists(index):
                await self._create(index, dimension, distance)
                await self._upgrade(index)
            params = (await self._client.get_collection(self._name(index))).config.params.vectors
            found = params[DENSE] if isinstance(params, dict) else None
            if found is None or (found.size, found.distance) != (dimension, _METRICS[distance]):
                raise FailedPrecondition(f"the index does not have {dimension} dimensions ({distance})")
            self._known.add(index)

    async def drop(self, index: IndexId) -> None:
        self._known.discard(index)
        with self._told():
            if await self._exists(index):
                await self._client.delete_collection(self._name(index))
        self._known.discard(index)

    async def upsert(self, index: IndexId, chunks: Sequence[EncodedChunk]) -> None:
        with self._told():
            if not await self._exists(index):
                raise LookupError(f"no index {index}")
            for start in range(0, len(chunks), _POINTS_A_WRITE):
                points = [_point(chunk) for chunk in chunks[start : start + _POINTS_A_WRITE]]
                await self._client.upsert(self._name(index), points, **_WRITE)

    async def delete_documents(self, index: IndexId, document_ids: Sequence[str]) -> None:
        if document_ids:
            await self._delete(index, any_of(*map(_of_document, document_ids)))

    async def retire(self, index: IndexId, document_id: str, keep_revision_key: str) -> None:
        others = Not(Comparison(("revision_key",), Operator.EQ, keep_revision_key))
        await self._delete(index, AllOf((_of_document(document_id), others)))

    async def set_fields(
        self, index: IndexId, document_ids: Sequence[str], fields: Mapping[str, Any], *, generation: int = 0
    ) -> None:
        with self._told():
            if await self._exists(index) and document_ids:
                chosen = _FILTERS.compile(not_beyond(generation, document_ids))
                await self._client.set_payload(self._name(index), fields_payload(fields, generation), chosen, **_WRITE)

    async def search(self, index: IndexId, query: VectorQuery) -> Found:
        with self._told():
            if not await self._exists(index):
                return Found([], 0, {})
            rankings = await self._rankings(index, query)
            fused = merge(query.fusion, rankings.get(DENSE), rankings.get(SPARSE), settled=query.limit)
            candidates = len(fused)
            similarities: dict[int, float] = {}
            if query.reference is not None and query.min_similarity is not None:
                similarities.update(rankings.get(DENSE, []))
                unknown = [id_ for id_, _ in fused if id_ not in similarities]
                similarities.update(await self._similarities(index, query.reference, unknown))
                fused = [hit for hit in fused if similarities.get(hit[0], -math.inf) >= query.min_similarity]
            hits = fused[: query.limit]
            records = (
                await self._client.retrieve(
                    self._name(index),
                    [id_ for id_, _ in hits],
                    _payload(query.left_out),
                    [DENSE] if query.with_vectors else False,
                    **self._read,
                )
                if hits
                else []
            )
        payloads = {int(record.id): record.payload or {} for record in records}
        vectors = {int(record.id): _dense(record) for record in records} if query.with_vectors else {}
        places = {
            stage: {id_: StageScore(stage, score, rank) for rank, (id_, score) in enumerate(ranking, start=1)}
            for stage, ranking in rankings.items()
        }
        found = [
            ScoredChunk(
                chunk_of(payloads[id_]),
                score,
                tuple(place[id_] for place in places.values() if id_ in place),
                similarities.get(id_),
                vectors.get(id_),
            )
            for id_, score in hits
            if id_ in payloads  # deleted since it was ranked
        ]
        return Found(found, candidates, {stage: len(ranking) for stage, ranking in rankings.items()})

    async def fetch(
        self, index: IndexId, keys: Sequence[int], chosen: Filter, left_out: Collection[Part] = ()
    ) -> Mapping[int, Chunk]:
        with self._told():
            if not keys or not await self._exists(index):
                return {}
            named = models.HasIdCondition(has_id=list(keys))
            filter_ = models.Filter(must=[named, _FILTERS.compile(chosen)])
            wanted = _payload(left_out)
            records, _ = await self._client.scroll(self._name(index), filter_, len(keys), with_payload=wanted)
        return {int(record.id): chunk_of(record.payload or {}) for record in records}

    async def vectors(self, index: IndexId, chosen: Filter, limit: int) -> Sequence[bytes]:
        with self._told():
            if not await self._exists(index):
                return []
            filter_ = _FILTERS.compile(chosen)
            records, _ = await self._client.scroll(
                self._name(index), filter_, limit, with_payload=False, with_vectors=[DENSE]
            )
        return [array("f", cast(Any, record.vector)[DENSE]).tobytes() for record in records]

    async def list_chunks(self, index: IndexId, document_id: str, from_ordinal: int, limit: int) -> Sequence[Chunk]:
        page = AllOf(
            (
                _of_document(document_id),
                Comparison(("ordinal",), Operator.GE, float(from_ordinal)),
                Comparison(("ordinal",), Operator.LT, float(from_ordinal + limit)),
            )
        )
        # While a document is imported anew, two revisions share the ordinals.
        records = await self._scroll(index, _FILTERS.compile(page), 2 * limit, True)
        chunks = [chunk_of(record.payload or {}) for record in records]
        return sorted(chunks, key=lambda chunk: (chunk.ordinal, chunk.chunk_id))

    async def adjacent(self, index: IndexId, chunks: Sequence[Chunk], reach: int, chosen: Filter) -> Sequence[Chunk]:
        if not chunks:
            return []
        around = _FILTERS.compile(all_of(adjacent_to(chunks, reach), chosen))
        records = await self._scroll(index, around, len(chunks) * (2 * reach + 1), _payload([Part.METADATA]))
        return [chunk_of(record.payload or {}) for record in records]

    async def count_values(self, index: IndexId, paths: Sequence[Path], chosen: Filter) -> Counts:
        # Qdrant's own facets need an index for each path, and count no doubles.
        counter, filter_, start = ValueCounter(paths), _FILTERS.compile(chosen), None
        with self._told():
            more = await self._exists(index)
            while more:
                records, start = await self._client.scroll(
                    self._name(index),
                    filter_,
                    limit=_COUNTED_AT_A_TIME,
                    offset=start,
                    with_payload=["metadata"],
                    **self._read,
                )
                for record in records:
                    counter.note(record.payload or {})
                more = start is not None
        return counter.counts

    async def count(self, index: IndexId, document_id: str = "", revision_key: str = "", above: int = -1) -> int:
        parts: tuple[Filter, ...] = (_of_document(document_id),) if document_id else ()
        if revision_key:
            parts = (*parts, Comparison(("revision_key",), Operator.EQ, revision_key))
        if above >= 0:
            parts = (*parts, Comparison(("fence",), Operator.GT, float(above)))
        with self._told():
            if not await self._exists(index):
                return 0
            counted = await self._client.count(self._name(index), _FILTERS.compile(AllOf(parts)), exact=True)
            return int(counted.count)

    async def stats(self, index: IndexId) -> IndexStats:
        with self._told():
            if not await self._exists(index):
                return IndexStats(0, 0)
            info = await self._client.get_collection(self._name(index))
        chunks = info.points_count or 0
        return IndexStats(chunks, min(chunks, info.indexed_vectors_count or 0))

    async def length_stats(self, index: IndexId) -> LengthStats:
        with self._told():
            if not await self._exists(index):
                return LengthStats(0, 0, {})
            lengths, scales = await asyncio.gather(self._values(index, "length"), self._values(index, "scale"))
        total = sum(length * count for length, count in lengths.items())
        return LengthStats(sum(lengths.values()), total, scales)

    async def of_scales(self, index: IndexId, scales: Collection[int], limit: int) -> Sequence[UnscaledChunk]:
        records = await self._scroll(index, _FILTERS.counted("scale", scales), limit, ["text", "context"])
        return [UnscaledChunk(str(record.id), searched_text(record.payload or {})) for record in records]

    async def rescale(self, index: IndexId, scale: int, vectors: Mapping[str, SparseVector]) -> None:
        with self._told():
            if not await self._exists(index):
                return
            records = await self._client.retrieve(self._name(index), [int(key) for key in vectors], False, False)
            known = [int(record.id) for record in records]
            if not known:
                return
            changed = [models.PointVectors(id=id_, vector={SPARSE: _sparse(vectors[str(id_)])}) for id_ in known]
            noted = models.SetPayload(payload={"scale": scale}, points=known)
            operations: list[models.UpdateOperation] = [
                models.UpdateVectorsOperation(update_vectors=models.UpdateVectors(points=changed)),
                models.SetPayloadOperation(set_payload=noted),
            ]
            await self._client.batch_update_points(self._name(index), operations, **_WRITE)

    async def check(self) -> None:
        try:
            await self._client.get_collections()
        except _ERRORS as error:
            raise DependencyUnavailable("the vector store does not answer", retry_after_s=1.0) from error

    async def _exists(self, index: IndexId) -> bool:
        if index not in self._known and await self._client.collection_exists(self._name(index)):
            await self._upgrade(index)
            self._known.add(index)
        return index in self._known

    async def _upgrade(self, index: IndexId) -> None:
        """Takes the steps that an older index lacks, as a new one does; other replicas may do the same meanwhile.

        Raises:
            DependencyUnavailable: It is of a newer version, whose replicas can answer.
        """
        name, known = self._name(index), max(self._steps)
        found = int(((await self._client.get_collection(name)).config.metadata or {}).get(_SCHEMA_KEY, 0))
        if found > known:
            raise DependencyUnavailable(too_new(f"the index {name}", found=found, known=known))
        for version in range(found + 1, known + 1):
            step = self._steps[version]
            for key in step.keywords:
                await self._client.create_payload_index(name, key, models.PayloadSchemaType.KEYWORD, **_WRITE)
            for key in step.integers:
                counted = models.IntegerIndexParams(type=models.IntegerIndexType.INTEGER, lookup=True, range=False)
                await self._client.create_payload_index(name, key, counted, **_WRITE)
            for key, value in step.defaults.items():
                without = _FILTERS.compile(Not(Has((key,))))
                await self._client.set_payload(name, {key: value}, without, **_WRITE)
            await self._client.update_collection(name, metadata={_SCHEMA_KEY: version})

    async def _create(self, index: IndexId, dimension: int, distance: Distance) -> None:
        majority = self._replicas // 2 + 1
        name = self._name(index)
        try:
            await self._client.create_collection(
                name,
                vectors_config={DENSE: models.VectorParams(size=dimension, distance=_METRICS[distance])},
                sparse_vectors_config={SPARSE: models.SparseVectorParams(modifier=models.Modifier.IDF)},
                replication_factor=self._replicas,
                write_consistency_factor=majority,
            )
        except (grpc.RpcError, ApiException, ValueError):
            if not await self._client.collection_exists(name):  # unless another replica was faster
                raise

    async def _delete(self, index: IndexId, chosen: Filter) -> None:
        with self._told():
            if await self._exists(index):
                selector = models.FilterSelector(filter=_FILTERS.compile(chosen))
                await self._client.delete(self._name(index), selector, **_WRITE)

    async def _rankings(self, index: IndexId, query: VectorQuery) -> dict[str, Ranking[int]]:
        stages: dict[str, Any] = {}
        if query.dense is not None:
            stages[DENSE] = array("f", query.dense).tolist()
        if query.sparse is not None and query.sparse.indices:
            stages[SPARSE] = _sparse(query.sparse)
        requests = [
            models.QueryRequest(
                query=vector,
                using=stage,
                filter=_FILTERS.compile(query.filter),
                limit=query.depth,
                params=models.SearchParams(exact=True) if query.exact else None,
                with_payload=False,
            )
            for stage, vector in stages.items()
        ]
        answers = await self._client.query_batch_points(self._name(index), requests, **self._read) if requests else []
        rankings = {
            stage: ranked([(int(point.id), point.score) for point in answer.points])
            for stage, answer in zip(stages, answers, strict=True)
        }
        if query.sparse is not None:
            rankings.setdefault(SPARSE, [])
        return rankings

    async def _similarities(self, index: IndexId, reference: bytes, ids: Sequence[int]) -> dict[int, float]:
        """The dense score of some points, whatever their rank."""
        if not ids:
            return {}
        answer = await self._client.query_points(
            self._name(index),
            array("f", reference).tolist(),
            using=DENSE,
            query_filter=models.Filter(must=[models.HasIdCondition(has_id=list(ids))]),
            search_params=models.SearchParams(exact=True),
            limit=len(ids),
            with_payload=False,
            **self._read,
        )
        return {int(point.id): point.score for point in answer.points}

    async def _scroll(self, index: IndexId, chosen: models.Filter, limit: int, keys: Payload) -> list[models.Record]:
        with self._told():
            if not await self._exists(index):
                return []
            records, _ = await self._client.scroll(self._name(index), chosen, limit, with_payload=keys)
            return list(records)

    async def _values(self, index: IndexId, key: str) -> dict[int, int]:
        answer = await self._client.facet(self._name(index), key, limit=_MOST_VALUES, exact=True)
        return {int(hit.value): hit.count for hit in answer.hits if hit.count}

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Asks through the breaker; turns the client's errors into what callers may hear. Its own words are logged."""
        try:
            with self._breaker.asking(_verdict):
                yield
        except _ERRORS as error:
            structlog.get_logger("retrieval.qdrant").error("qdrant failed", error=repr(error))
            if _unanswered(error):
                raise DependencyUnavailable("the vector store does not answer", retry_after_s=1.0) from error
            raise IndexFailed("the vector store failed at this request") from error

    def _name(self, index: IndexId) -> str:
        return f"{self._prefix}{index}"


def _unanswered(error: Exception) -> bool:
    """Whether the server is away or slow; other errors are its answers."""
    return isinstance(error, _ERRORS) and not (isinstance(error, grpc.aio.AioRpcError) and error.code() not in _AWAY)


def _verdict(error: Exception) -> Verdict:
    return Verdict.FAILURE if _unanswered(error) else Verdict.ANSWER


def _payload(left_out: Collection[Part]) -> Payload:
    return models.PayloadSelectorExclude(exclude=keys_of(left_out)) if left_out else True


def _of_document(document_id: str) -> Filter:
    return Comparison(("document",), Operator.EQ, document_id)


def _point(encoded: EncodedChunk) -> models.PointStruct:
    id_ = encoded.chunk.key
    vector: dict[str, Any] = {DENSE: array("f", encoded.vector).tolist()}
    if encoded.sparse.indices:
        vector[SPARSE] = _sparse(encoded.sparse)
    return models.PointStruct(id=id_, vector=vector, payload=payload_of(encoded))


def _dense(record: models.Record) -> bytes:
    vectors: Any = record.vector
    return array("f", vectors[DENSE]).tobytes()


def _sparse(vector: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=list(vector.indices), values=list(vector.values))
