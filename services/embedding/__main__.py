"""Starts the embedding service: `python -m services.embedding`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from ragweave.internal.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from ragweave.internal.v1.tokenizer_service_pb2_grpc import add_TokenizerServiceServicer_to_server
from ragweave.v1.embedding_service_pb2_grpc import add_EmbeddingServiceServicer_to_server
from ragweave.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.adapters.redis import RedisCache
from services.embedding.cache import TieredCache
from services.embedding.embedder import Embedder
from services.embedding.models import Catalog
from services.embedding.servicer import EmbeddingServicer, ModelServicer, TenantServicer, TokenizerServicer
from services.embedding.settings import Settings
from services.mesh.serve import Wiring, serve
from services.mesh.settings import read


@asynccontextmanager
async def wire(settings: Settings) -> AsyncIterator[Wiring]:
    async with (
        OnnxModel.open(ModelFiles.packaged(), workers=settings.workers) as model,
        RedisCache.open(
            settings.cache_url or settings.mesh.redis_url,
            ttl_s=settings.cache_ttl_s,
            timeout_s=settings.cache_timeout_s,
        ) as far,
        TieredCache(far, near_bytes=settings.cache_bytes) as cache,
    ):
        embedder = Embedder(
            model,
            cache,
            workers=settings.workers,
            max_queue=settings.max_queue,
            batch_tokens=settings.batch_tokens,
        )
        catalog = Catalog([embedder])

        def register(server: grpc.aio.Server) -> None:
            add_EmbeddingServiceServicer_to_server(EmbeddingServicer(catalog), server)
            add_ModelServiceServicer_to_server(ModelServicer(catalog), server)
            add_TokenizerServiceServicer_to_server(TokenizerServicer(catalog), server)
            add_TenantServiceServicer_to_server(TenantServicer(cache), server)

        yield Wiring(register, checks={f"model {model.spec.id}": embedder.check})


if __name__ == "__main__":
    asyncio.run(serve("embedding", wire, read(Settings)))
