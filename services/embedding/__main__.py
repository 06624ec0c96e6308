"""Starts the embedding service: `python -m services.embedding`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc

from ragweave.internal.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from ragweave.internal.v1.tokenizer_service_pb2_grpc import add_TokenizerServiceServicer_to_server
from ragweave.v1.embedding_service_pb2_grpc import add_EmbeddingServiceServicer_to_server
from ragweave.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from services.embedding.adapters.endpoint import Endpoint
from services.embedding.adapters.onnx import ModelFiles, ModelFilesMissing, OnnxModel
from services.embedding.adapters.onnx_cross_encoder import ModelFolderUnusable, OnnxCrossEncoder
from services.embedding.adapters.onnx_weights import WeightsUnexpected
from services.embedding.adapters.redis import RedisCache
from services.embedding.adapters.rerank_endpoints import CohereReranker, TeiReranker
from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder
from services.embedding.models import Catalog, RerankerSpec
from services.embedding.ports import Reranker
from services.embedding.rerank_sources import Kind, RerankSource
from services.embedding.reranker import LocalReranker
from services.embedding.servicer import EmbeddingServicer, ModelServicer, TenantServicer, TokenizerServicer
from services.embedding.settings import Settings
from services.mesh.listening import CannotStart
from services.mesh.reports import QueueReport
from services.mesh.serve import Wiring, serve
from services.mesh.settings import read


@asynccontextmanager
async def open_reranker(source: RerankSource, settings: Settings) -> AsyncIterator[Reranker]:
    if source.kind is Kind.ONNX:
        try:
            async with OnnxCrossEncoder.open(
                source.model, Path(source.place), workers=settings.rerank_workers, niceness=settings.niceness
            ) as encoder:
                yield LocalReranker(
                    encoder,
                    workers=settings.rerank_workers,
                    max_queue=settings.max_queue,
                    batch_tokens=settings.batch_tokens,
                )
        except ModelFolderUnusable as error:
            raise CannotStart(f"embedding: RAGWEAVE_EMBEDDING_RERANK_MODELS: {error}") from None
        return
    spec = RerankerSpec(source.model, source.remote_model or source.model)
    async with Endpoint.open(source.place, api_key=_api_key(settings.rerank_keys.get(source.model))) as endpoint:
        if source.kind is Kind.TEI:
            yield TeiReranker(spec, endpoint)
        else:
            yield CohereReranker(spec, endpoint, source.remote_model)


@asynccontextmanager
async def open_model(settings: Settings) -> AsyncIterator[OnnxModel]:
    """The model that embeds.

    Raises:
        CannotStart: Its files are missing, or of another model.
    """
    try:
        files = ModelFiles.packaged()
        async with OnnxModel.open(files, workers=settings.workers, niceness=settings.niceness) as model:
            yield model
    except (ModelFilesMissing, WeightsUnexpected) as error:
        raise CannotStart(f"embedding: {error}") from None


def _api_key(file: Path | None) -> str:
    """The key in a file; "" without one."""
    try:
        key = file.read_text().strip() if file else ""
    except (OSError, ValueError):
        key = "\n"
    if not key.isascii() or not key.isprintable() or (file and not key):
        raise CannotStart(f"embedding: RAGWEAVE_EMBEDDING_RERANK_KEYS: {file} holds no API key")
    return key


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    async with (
        open_model(settings) as model,
        RedisCache.open(
            settings.cache_url or settings.mesh.redis_url,
            ttl_s=settings.cache_ttl_s,
            timeout_s=settings.cache_timeout_s,
        ) as far,
        TieredCache(far, near_bytes=settings.cache_bytes) as cache,
        AsyncExitStack() as opened,
    ):
        embedder = Embedder(
            model,
            cache,
            workers=settings.workers,
            max_queue=settings.max_queue,
            batch_tokens=settings.batch_tokens,
        )
        rerankers = [
            await opened.enter_async_context(open_reranker(source, settings)) for source in settings.rerank_models
        ]
        try:
            catalog = Catalog([embedder], rerankers)
        except ValueError as error:
            raise CannotStart(f"embedding: RAGWEAVE_EMBEDDING_RERANK_MODELS: {error}") from None

        def register(server: grpc.aio.Server) -> None:
            add_EmbeddingServiceServicer_to_server(EmbeddingServicer(catalog), server)
            add_ModelServiceServicer_to_server(ModelServicer(catalog), server)
            add_TokenizerServiceServicer_to_server(TokenizerServicer(catalog), server)
            add_TenantServiceServicer_to_server(TenantServicer(cache), server)

        async def queues() -> list[QueueReport]:
            return [QueueReport(kind, waiting) for kind, waiting in embedder.waiting.items()]

        yield Wiring(register, checks={f"model {model.spec.id}": embedder.check}, queues=queues)


if __name__ == "__main__":
    asyncio.run(serve("embedding", wire, read(Settings)))
