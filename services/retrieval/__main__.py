"""Starts the retrieval service: `python -m services.retrieval`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta

import grpc

from ragweave.internal.v1.backup_service_pb2_grpc import add_BackupServiceServicer_to_server
from ragweave.internal.v1.evaluation_run_service_pb2_grpc import add_EvaluationRunServiceServicer_to_server
from ragweave.internal.v1.index_service_pb2_grpc import add_IndexServiceServicer_to_server
from ragweave.internal.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from ragweave.v1.cache_service_pb2_grpc import add_CacheServiceServicer_to_server
from ragweave.v1.evaluation_service_pb2_grpc import add_EvaluationServiceServicer_to_server
from ragweave.v1.retrieval_service_pb2_grpc import add_RetrievalServiceServicer_to_server
from services.mesh.channels import open_channel
from services.mesh.health import serving
from services.mesh.identity import Caller
from services.mesh.serve import Wiring, serve
from services.mesh.settings import read
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.embedding import EmbeddingClient
from services.retrieval.adapters.jobs import JobsClient
from services.retrieval.adapters.redis import RedisRevisions
from services.retrieval.adapters.redis_evaluations import RedisEvaluations
from services.retrieval.adapters.redis_questions import RedisQuestions
from services.retrieval.adapters.redis_results import RedisResults
from services.retrieval.adapters.registry import RegistryClient
from services.retrieval.adapters.reranking import RerankingClient
from services.retrieval.adapters.system import SystemUsage
from services.retrieval.answering import Answering
from services.retrieval.batch import BatchSearcher
from services.retrieval.cache import ResultCache
from services.retrieval.cache_keeping import CacheKeeper
from services.retrieval.collections_mirror import CollectionsMirror
from services.retrieval.convert_cache import body_of, query_read, sent_from
from services.retrieval.convert_evaluations import query_of
from services.retrieval.erasure import Erasure
from services.retrieval.evaluations import Evaluations
from services.retrieval.freshness import Freshness
from services.retrieval.index_backup import IndexBackup
from services.retrieval.indexer import Indexer
from services.retrieval.measured_store import MeasuredVectorStore
from services.retrieval.ports import Questions, SharedResults, VectorStore
from services.retrieval.query_log import QueryLog
from services.retrieval.query_sets import QuerySets
from services.retrieval.retriever import Retriever
from services.retrieval.revisions import RevisionsMirror
from services.retrieval.scaling import SparseScales
from services.retrieval.servicer import (
    BackupServicer,
    CacheServicer,
    IndexServicer,
    RetrievalServicer,
    TenantServicer,
)
from services.retrieval.servicer_evaluations import EvaluationRunServicer, EvaluationServicer
from services.retrieval.settings import Settings
from services.retrieval.similar import SimilarFinder
from services.retrieval.trials import Trials
from services.retrieval.usage import Usage
from services.retrieval.warming import CacheWarmer


def open_store(settings: Settings) -> AbstractAsyncContextManager[VectorStore]:
    if settings.store == "edge":
        return EdgeVectorStore.open(
            settings.index_folder,
            build_threshold=settings.build_threshold,
            threads=settings.threads,
            max_open=settings.max_open,
            idle_s=settings.engine_idle_s,
            reserve_bytes=settings.mesh.min_free_disk,
        )
    # The client's models take 50 MB, which the embedded store has no use for.
    from services.retrieval.adapters.qdrant import QdrantVectorStore

    return QdrantVectorStore.open(
        settings.qdrant_url,
        api_key=settings.qdrant_api_key,
        prefix=settings.qdrant_prefix,
        replicas=settings.qdrant_replicas,
        timeout_s=settings.qdrant_timeout_s,
    )


def open_shared(settings: Settings) -> AbstractAsyncContextManager[SharedResults | None]:
    if not settings.cache_shared:
        return nullcontext()
    return RedisResults.open(
        settings.cache_url or settings.mesh.redis_url,
        ttl_s=settings.cache_ttl_s,
        timeout_s=settings.cache_timeout_s,
        era=settings.era,
    )


def open_questions(settings: Settings) -> AbstractAsyncContextManager[Questions | None]:
    if not settings.query_log_s:
        return nullcontext()
    return RedisQuestions.open(settings.cache_url or settings.mesh.redis_url, keep_s=settings.query_log_s)


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    mesh = settings.mesh
    async with (
        open_store(settings) as opened,
        RedisRevisions.open(mesh.redis_url, timeout_s=settings.redis_timeout_s) as counter,
        open_channel(mesh, mesh.embedding_target) as embedding,
        RedisEvaluations.open(mesh.redis_url, timeout_s=settings.redis_timeout_s) as kept,
        open_channel(mesh, mesh.collections_target) as registry,
        open_channel(mesh, mesh.system_target) as system,
        open_shared(settings) as shared,
        open_channel(mesh, mesh.jobs_target) as jobs,
        open_questions(settings) as questions,
        asyncio.TaskGroup() as background,
    ):
        self_caller = Caller.of_service("retrieval", mesh.public_tenant)
        usage = Usage(
            SystemUsage(system, self_caller), interval_s=settings.usage_interval_s, most=settings.usage_waiting
        )
        store = MeasuredVectorStore(opened)
        collections = CollectionsMirror(RegistryClient(registry, self_caller))
        revisions = RevisionsMirror(counter, counter)
        scales = SparseScales(store, collections.language_of, revisions)
        embedder = EmbeddingClient(embedding)
        freshness, reranker = Freshness(revisions), RerankingClient(embedding)
        retriever = Retriever(store, embedder, collections, scales, freshness, reranker, usage)
        batches, similar = BatchSearcher(retriever, embedder), SimilarFinder(retriever, store, usage)
        cache = ResultCache(revisions, shared, max_bytes=settings.cache_bytes, ttl_s=settings.cache_ttl_s)
        log = QueryLog(questions)
        answering = Answering(retriever, cache, log, usage, body_of, sent_from)
        keeper = CacheKeeper(cache, log, collections)
        warmer = CacheWarmer(answering, log, collections, query_read)
        backup = IndexBackup(opened if isinstance(opened, EdgeVectorStore) else None, mesh.backup_dir)
        indexer = Indexer(store, collections, revisions, scales)
        sets = QuerySets(kept.sets, most=settings.query_sets)
        evaluations = Evaluations(
            kept.evaluations,
            sets,
            Trials(retriever, EmbeddingClient(embedding, recompute=True), store, usage),
            JobsClient(jobs),
            query_of,
            retention=timedelta(seconds=settings.evaluation_retention_s),
            most=settings.evaluations,
        )

        def register(server: grpc.aio.Server) -> None:
            add_RetrievalServiceServicer_to_server(RetrievalServicer(answering, retriever, batches, similar), server)
            add_CacheServiceServicer_to_server(CacheServicer(keeper, warmer), server)
            add_IndexServiceServicer_to_server(IndexServicer(indexer, collections), server)
            add_EvaluationServiceServicer_to_server(EvaluationServicer(sets, evaluations), server)
            add_EvaluationRunServiceServicer_to_server(EvaluationRunServicer(evaluations), server)
            add_BackupServiceServicer_to_server(BackupServicer(backup), server)
            add_TenantServiceServicer_to_server(TenantServicer(Erasure(indexer, keeper, kept)), server)

        tasks = [background.create_task(each.run()) for each in (collections, scales, revisions, log)]
        # Without Redis searches go on; writes fail and are repeated by those who asked for them.
        async with usage.running():
            yield Wiring(
                register,
                # The registry is held here: once read, it is there whether or not its service answers.
                checks={"vector store": store.check, "collections": collections.check},
                uses={"embedding": lambda: serving(embedding)},
            )
        for task in tasks:
            task.cancel()


if __name__ == "__main__":
    asyncio.run(serve("retrieval", wire, read(Settings)))
