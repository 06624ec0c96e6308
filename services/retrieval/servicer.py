"""The retrieval service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from ragweave.internal.v1 import backup_service_pb2 as backup_pb
from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1 import tenant_service_pb2 as tenant_pb
from ragweave.internal.v1.backup_service_pb2_grpc import BackupServiceServicer
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceServicer
from ragweave.internal.v1.tenant_service_pb2_grpc import TenantServiceServicer
from ragweave.v1 import cache_pb2, cache_service_pb2, filter_pb2
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.cache_service_pb2_grpc import CacheServiceServicer
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceServicer
from services.mesh.calls import current_call
from services.mesh.identity import caller
from services.retrieval import convert, convert_cache
from services.retrieval.answering import Answering
from services.retrieval.batch import BatchSearcher
from services.retrieval.cache_keeping import CacheKeeper
from services.retrieval.chunks import IndexId
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.erasure import Erasure
from services.retrieval.index_backup import IndexBackup
from services.retrieval.indexer import Indexer
from services.retrieval.retriever import Retriever
from services.retrieval.similar import SimilarFinder
from services.retrieval.steps import answered_in_steps
from services.retrieval.warming import CacheWarmer

Context = grpc.aio.ServicerContext[Any, Any]


class RetrievalServicer(RetrievalServiceServicer):
    def __init__(
        self,
        answering: Answering[convert_cache.Sent],
        retriever: Retriever,
        batches: BatchSearcher,
        similar: SimilarFinder,
    ) -> None:
        self._answering = answering
        self._retriever = retriever
        self._batches = batches
        self._similar = similar

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        query = convert.query_of(request)
        written = partial(convert_cache.written_from, request)
        served = await self._answering.search(query, caller(context), written, timeout_s=_remaining_s())
        return convert_cache.response_from(served, _trace_id())

    async def BatchSearch(self, request: pb.BatchSearchRequest, context: Context) -> pb.BatchSearchResponse:
        queries = convert.queries_from(request.requests, request.collection)
        outcomes = await self._batches.search(queries, caller(context), timeout_s=_remaining_s())
        return convert.outcomes_to(outcomes, _trace_id())

    async def StreamSearch(
        self, request: pb.StreamSearchRequest, context: Context
    ) -> AsyncIterator[pb.StreamSearchResponse]:
        query = convert.query_from(request.search)
        async for step in answered_in_steps(self._retriever, query, caller(context), timeout_s=_remaining_s()):
            yield convert.step_to(step, _trace_id())

    async def FindSimilar(self, request: pb.FindSimilarRequest, context: Context) -> pb.SearchResponse:
        answer = await self._similar.find(
            request.name,
            convert.similar_from(request),
            caller(context),
            same_document=request.same_document,
            timeout_s=_remaining_s(),
        )
        return convert.answer_to(answer, _trace_id())

    async def ParseFilter(
        self, request: filter_pb2.ParseFilterRequest, context: Context
    ) -> filter_pb2.ParseFilterResponse:
        return convert.filter_to(convert.filter_from(request))


def _remaining_s() -> float | None:
    call = current_call()
    return call.remaining_s() if call else None


def _trace_id() -> str:
    call = current_call()
    return call.trace_id if call else ""


class CacheServicer(CacheServiceServicer):
    def __init__(self, keeper: CacheKeeper, warmer: CacheWarmer) -> None:
        self._keeper = keeper
        self._warmer = warmer

    async def GetCacheStats(
        self, request: cache_service_pb2.GetCacheStatsRequest, context: Context
    ) -> cache_pb2.CacheStats:
        return convert_cache.stats_to(await self._keeper.stats(caller(context).tenant, request.collection))

    async def ListCacheEntries(
        self, request: cache_service_pb2.ListCacheEntriesRequest, context: Context
    ) -> cache_service_pb2.ListCacheEntriesResponse:
        page = self._keeper.entries(caller(context).tenant, convert_cache.entries_query(request))
        return convert_cache.entries_to(page)

    async def PurgeCache(
        self, request: cache_service_pb2.PurgeCacheRequest, context: Context
    ) -> cache_service_pb2.PurgeCacheResponse:
        return convert_cache.purged_to(await self._keeper.purge(caller(context).tenant, request.collection))

    async def WarmCache(
        self, request: cache_service_pb2.WarmCacheRequest, context: Context
    ) -> cache_service_pb2.WarmCacheResponse:
        outcomes = await self._warmer.warm(
            caller(context).tenant, request.collection, request.limit, timeout_s=_remaining_s()
        )
        return convert_cache.warmed_to(outcomes)


class IndexServicer(IndexServiceServicer):
    def __init__(self, indexer: Indexer, collections: CollectionsMirror) -> None:
        self._indexer = indexer
        self._collections = collections

    def _index(self, request: Any) -> IndexId:
        return self._collections.owned(IndexId(request.collection_uid), caller().tenant)

    async def UpsertChunks(
        self, request: index_pb.UpsertChunksRequest, context: Context
    ) -> index_pb.UpsertChunksResponse:
        revision = await self._indexer.upsert(self._index(request), convert.chunks_from(request))
        return index_pb.UpsertChunksResponse(index_revision=revision)

    async def RetireRevisions(
        self, request: index_pb.RetireRevisionsRequest, context: Context
    ) -> index_pb.RetireRevisionsResponse:
        index, kept = self._index(request), request.keep_revision_key
        revision = await self._indexer.retire(index, request.document_id, kept, request.expected_chunks, request.fence)
        return index_pb.RetireRevisionsResponse(index_revision=revision)

    async def DeleteDocuments(
        self, request: index_pb.DeleteDocumentsRequest, context: Context
    ) -> index_pb.DeleteDocumentsResponse:
        revision = await self._indexer.delete(self._index(request), request.document_ids, request.fence)
        return index_pb.DeleteDocumentsResponse(index_revision=revision)

    async def HideDocuments(
        self, request: index_pb.HideDocumentsRequest, context: Context
    ) -> index_pb.HideDocumentsResponse:
        generations = {each.document_id: each.generation for each in request.documents}
        revision = await self._indexer.hide(self._index(request), generations)
        return index_pb.HideDocumentsResponse(index_revision=revision)

    async def UpdateDocumentFields(
        self, request: index_pb.UpdateDocumentFieldsRequest, context: Context
    ) -> index_pb.UpdateDocumentFieldsResponse:
        document = convert.document_from(request.document)
        revision = await self._indexer.update_fields(self._index(request), document)
        return index_pb.UpdateDocumentFieldsResponse(index_revision=revision)

    async def ListChunks(self, request: index_pb.ListChunksRequest, context: Context) -> index_pb.ListChunksResponse:
        chunks, total = await self._indexer.list_chunks(
            self._index(request), request.document_id, request.from_ordinal, request.limit
        )
        return convert.chunks_to(chunks, total)

    async def GetIndexStats(
        self, request: index_pb.GetIndexStatsRequest, context: Context
    ) -> index_pb.GetIndexStatsResponse:
        return convert.stats_to(*await self._indexer.stats(self._index(request)))

    async def ApplyCollection(
        self, request: index_pb.ApplyCollectionRequest, context: Context
    ) -> index_pb.ApplyCollectionResponse:
        self._collections.told(convert.view_from(request.record), caller(context).tenant)
        return index_pb.ApplyCollectionResponse()

    async def DropIndex(self, request: index_pb.DropIndexRequest, context: Context) -> index_pb.DropIndexResponse:
        await self._indexer.drop(self._index(request))
        return index_pb.DropIndexResponse()


class BackupServicer(BackupServiceServicer):
    def __init__(self, backup: IndexBackup) -> None:
        self._backup = backup

    async def CopyIndex(
        self, request_iterator: AsyncIterator[backup_pb.CopyIndexRequest], context: Context
    ) -> AsyncIterator[backup_pb.CopyIndexResponse]:
        asked = (request.backup async for request in request_iterator)
        async for stage in self._backup.copy(asked):
            yield backup_pb.CopyIndexResponse(stage=backup_pb.CopyIndexResponse.Stage.Value(stage.name))


class TenantServicer(TenantServiceServicer):
    def __init__(self, erasure: Erasure) -> None:
        self._erasure = erasure

    async def EraseTenant(
        self, request: tenant_pb.EraseTenantRequest, context: Context
    ) -> tenant_pb.EraseTenantResponse:
        count = await self._erasure.erase(caller(context).tenant)
        return tenant_pb.EraseTenantResponse(count=count, erased=not count)

    async def AdmitTenant(
        self, request: tenant_pb.AdmitTenantRequest, context: Context
    ) -> tenant_pb.AdmitTenantResponse:
        return tenant_pb.AdmitTenantResponse()
