"""Between the contract's messages and the domain."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from functools import lru_cache
from typing import Any, Final

from google.protobuf.struct_pb2 import Struct, Value
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1 import registry_service_pb2 as registry_pb
from ragweave.v1 import collection_pb2, filter_pb2
from ragweave.v1 import search_pb2 as pb
from services.mesh.convert_times import duration_to
from services.mesh.errors import DomainError, InvalidArgument
from services.mesh.filters import Filter, canonical, leaves, spelled, unparse
from services.mesh.filters.typed import from_typed, to_typed
from services.mesh.interceptors.validation import check
from services.mesh.status import status_of
from services.retrieval.chunks import Chunk, DocumentFields, IndexId, IndexStats, Mode, Rerank
from services.retrieval.collection import CollectionView, SearchDefaults
from services.retrieval.convert_explaining import explanation_to
from services.retrieval.convert_hits import hit_to
from services.retrieval.convert_refining import boosts_from, facets_from, facets_to, group_by_from, groups_to, mmr_from
from services.retrieval.filterable import SCHEMA, both
from services.retrieval.fusion import Dbsf, Fusion, Rrf
from services.retrieval.masking import mask_of
from services.retrieval.query import CacheControl, Query
from services.retrieval.retriever import Answer
from services.retrieval.stages import Degraded
from services.retrieval.steps import Ended, Step

_MODES: Final = {
    pb.SearchRequest.HYBRID: Mode.HYBRID,
    pb.SearchRequest.DENSE: Mode.DENSE,
    pb.SearchRequest.SPARSE: Mode.SPARSE,
}
_CACHE_CONTROLS: Final = {
    pb.SearchRequest.CACHE_CONTROL_UNSPECIFIED: CacheControl.DEFAULT,
    pb.SearchRequest.DEFAULT: CacheControl.DEFAULT,
    pb.SearchRequest.BYPASS: CacheControl.BYPASS,
    pb.SearchRequest.REFRESH: CacheControl.REFRESH,
}

# Bytes of a request, such as one of some words; vectors and long filters seldom come twice.
_LONGEST_KNOWN_AGAIN: Final = 1024


def query_of(request: pb.SearchRequest) -> Query:
    """As `query_from`; the very same query for a request that was here lately."""
    if request.ByteSize() > _LONGEST_KNOWN_AGAIN:
        return query_from(request)
    return _query_of(request.SerializeToString(deterministic=True))


@lru_cache(maxsize=1024)
def _query_of(written: bytes) -> Query:
    return query_from(pb.SearchRequest.FromString(written))


def query_from(request: pb.SearchRequest) -> Query:
    return Query(
        text=request.query.strip(),
        vector=request.vector,
        collection=request.collection,
        collections=request.collections,
        filter=request.filter,
        typed_filter=from_typed(request.typed_filter, SCHEMA),
        top_k=request.top_k,
        page_size=request.page_size,
        page_token=request.page_token,
        page=request.page,
        mode=_MODES.get(request.mode),
        fusion=fusion_from(request.fusion),
        candidates=request.candidates,
        min_score=request.min_score,
        rerank=rerank_from(request.rerank) if request.HasField("rerank") else None,
        highlight=request.highlight,
        boosts=boosts_from(request.boosts),
        mmr=mmr_from(request.mmr) if request.HasField("mmr") else None,
        group_by=group_by_from(request.group_by) if request.HasField("group_by") else None,
        facets=facets_from(request.facets),
        neighbors=request.neighbors,
        mask=mask_of(request.read_mask.paths),
        require_all=request.require_all,
        explain=request.explain,
        consistency_token=request.consistency_token,
        cache_control=_CACHE_CONTROLS[request.cache_control],
    )


def filter_from(request: filter_pb2.ParseFilterRequest) -> Filter:
    return both(request.filter, from_typed(request.typed_filter, SCHEMA))


def filter_to(tree: Filter) -> filter_pb2.ParseFilterResponse:
    return filter_pb2.ParseFilterResponse(
        tree=to_typed(tree),
        canonical=unparse(canonical(tree)),
        fields=sorted({spelled(leaf.path) for leaf in leaves(tree)}),
    )


def queries_from(requests: Iterable[pb.SearchRequest], collection: str) -> list[Query | DomainError]:
    """The queries of a batch, or why one is none; `collection` is that of those that name none."""
    return [_query_or_error(each, collection) for each in requests]


def _query_or_error(request: pb.SearchRequest, collection: str) -> Query | DomainError:
    try:
        check(request)
        query = query_from(request)
    except DomainError as error:
        return error
    named = query.collection or query.collections
    return query if named else replace(query, collection=collection)


def similar_from(request: pb.FindSimilarRequest) -> Query:
    return Query(
        collections=request.collections,
        filter=request.filter,
        typed_filter=from_typed(request.typed_filter, SCHEMA),
        top_k=request.top_k,
        min_score=request.min_score,
        page_size=request.page_size,
        page_token=request.page_token,
        explain=request.explain,
        mask=mask_of(request.read_mask.paths),
    )


def fusion_from(fusion: pb.Fusion) -> Fusion | None:
    """The fusion asked for; None where none is."""
    match fusion.WhichOneof("method"):
        case "rrf":
            dense, sparse = fusion.rrf.dense_weight, fusion.rrf.sparse_weight
            return Rrf(fusion.rrf.k or 60, *((dense, sparse) if dense or sparse else (1.0, 1.0)))
        case "dbsf":
            return Dbsf()
    return None


def rerank_from(rerank: pb.SearchRequest.Rerank) -> Rerank:
    return Rerank(rerank.model, rerank.top_n)


def answer_to(answer: Answer, trace_id: str) -> pb.SearchResponse:
    """The response, its hits of the fields that were asked for."""
    response = lasting_to(answer)
    response.timings.extend(timings_to(answer.timings_s))
    response.trace_id = trace_id
    return response


def lasting_to(answer: Answer) -> pb.SearchResponse:
    """What of the response is the same in every call that it answers; see answer_to."""
    response = pb.SearchResponse(
        groups=groups_to(answer.groups),
        facets=facets_to(answer.facets),
        total_size=answer.total,
        next_page_token=answer.next_page_token,
        degraded_stages=[degraded_to(each) for each in answer.degraded],
        usage=pb.SearchResponse.Usage(query_tokens=answer.query_tokens, candidates=answer.candidates),
        explanation=explanation_to(answer.explanation) if answer.explanation else None,
    )
    for hit in answer.hits:
        hit_to(hit, answer.mask, response.hits.add())
    return response


def timings_to(timings_s: Mapping[str, float]) -> list[pb.SearchResponse.StageTiming]:
    return [
        pb.SearchResponse.StageTiming(stage=stage, duration=duration_to(seconds))
        for stage, seconds in timings_s.items()
    ]


def degraded_to(degraded: Degraded) -> pb.SearchResponse.DegradedStage:
    collection = f"collections/{degraded.collection}" if degraded.collection else ""
    return pb.SearchResponse.DegradedStage(stage=degraded.stage, reason=degraded.reason, collection=collection)


def outcomes_to(outcomes: Sequence[Answer | DomainError], trace_id: str) -> pb.BatchSearchResponse:
    """What became of each question of a batch."""
    return pb.BatchSearchResponse(results=[_result(outcome, trace_id) for outcome in outcomes])


def _result(outcome: Answer | DomainError, trace_id: str) -> pb.BatchSearchResponse.Result:
    if isinstance(outcome, DomainError):
        return pb.BatchSearchResponse.Result(error=status_of(outcome))
    return pb.BatchSearchResponse.Result(response=answer_to(outcome, trace_id))


def step_to(step: Step | Ended, trace_id: str) -> pb.StreamSearchResponse:
    match step:
        case Ended(error):
            return pb.StreamSearchResponse(final_status=status_of(error) if error else Status())
        case Step(answer, complete=True):
            return pb.StreamSearchResponse(complete=answer_to(answer, trace_id))
        case Step(answer):
            return pb.StreamSearchResponse(partial=answer_to(answer, trace_id))


def view_from(record: registry_pb.CollectionRecord) -> CollectionView:
    collection = record.collection
    return CollectionView(
        tenant=record.tenant,
        collection_id=collection.name.rpartition("/")[2],
        uid=IndexId(collection.uid),
        embedding_model=collection.embedding_model,
        language=collection.language or "en",
        dimension=record.dimension,
        public=collection.visibility == collection_pb2.Collection.PUBLIC,
        disabled=collection.disabled,
        deleted=record.deleted,
        defaults=SearchDefaults(
            top_k=collection.default_search.top_k,
            mode=_MODES.get(collection.default_search.mode),
            fusion=fusion_from(collection.default_search.fusion),
            min_score=collection.default_search.min_score,
            rerank=rerank_from(collection.default_search.rerank)
            if collection.default_search.HasField("rerank")
            else None,
        ),
        sequence=record.sequence,
    )


def chunks_from(request: index_pb.UpsertChunksRequest) -> list[tuple[Chunk, bytes]]:
    document = document_from(request.document)
    return [
        (
            Chunk(
                document=document,
                revision_key=request.revision_key,
                chunk_id=each.chunk_id,
                ordinal=each.ordinal,
                text=each.text,
                context=each.context,
                start_offset=each.start_offset,
                end_offset=each.end_offset,
                token_count=each.token_count,
                section=each.section,
                page_number=each.page_number,
            ),
            each.vector,
        )
        for each in request.chunks
    ]


def document_from(fields: index_pb.DocumentFields) -> DocumentFields:
    return DocumentFields(
        document_id=fields.document_id,
        title=fields.title,
        source_uri=fields.source_uri,
        mime_type=fields.mime_type,
        metadata=_plain(fields.metadata),
        principals=tuple(fields.principals),
        content_hash=fields.content_hash,
        revision=fields.revision,
        create_time=fields.create_time.ToDatetime(UTC) if fields.HasField("create_time") else None,
        fence=fields.fence,
        generation=fields.generation,
    )


def chunks_to(chunks: Sequence[Chunk], total: int) -> index_pb.ListChunksResponse:
    return index_pb.ListChunksResponse(
        chunks=[
            index_pb.IndexChunk(
                chunk_id=each.chunk_id,
                ordinal=each.ordinal,
                text=each.text,
                context=each.context,
                start_offset=each.start_offset,
                end_offset=each.end_offset,
                token_count=each.token_count,
                section=each.section,
                page_number=each.page_number,
            )
            for each in chunks
        ],
        total_size=total,
    )


def stats_to(stats: IndexStats, revision: int) -> index_pb.GetIndexStatsResponse:
    return index_pb.GetIndexStatsResponse(
        chunks=stats.chunks, indexed_chunks=stats.indexed_chunks, index_revision=revision
    )


def _plain(struct: Struct) -> dict[str, Any]:
    return {key: _value(value) for key, value in struct.fields.items()}


def _value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value" if not math.isfinite(value.number_value):
            raise InvalidArgument.of("document.metadata", "holds a number that is not finite")
        case "struct_value":
            return _plain(value.struct_value)
        case "list_value":
            return [_value(each) for each in value.list_value.values]
        case "null_value" | None:
            return None
        case kind:
            return getattr(value, kind)
