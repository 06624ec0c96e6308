"""The embedding service's methods: messages in, domain calls, messages out."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from ragweave.internal.v1 import tenant_service_pb2 as tenant_pb
from ragweave.internal.v1 import tenant_service_pb2_grpc as tenant_grpc
from ragweave.internal.v1 import tokenizer_service_pb2 as internal_pb
from ragweave.internal.v1 import tokenizer_service_pb2_grpc as internal_grpc
from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1 import embedding_service_pb2_grpc as pb_grpc
from ragweave.v1 import model_pb2, model_service_pb2, model_service_pb2_grpc
from services.embedding import convert
from services.embedding.cache import TieredCache
from services.embedding.models import Catalog
from services.embedding.reranker import rerank
from services.embedding.stream import embed_stream
from services.mesh.calls import current_call
from services.mesh.identity import caller

Context = grpc.aio.ServicerContext[Any, Any]


class EmbeddingServicer(pb_grpc.EmbeddingServiceServicer):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        embedder = self._catalog.embedder(request.model)
        embeddings = await embedder.embed(
            caller(context).tenant,
            request.texts,
            input_type=convert.input_type_from(request.input_type),
            truncate=request.truncate,
            recompute=request.recompute,
            within_s=_remaining_s(),
        )
        return convert.embeddings_to(embeddings, embedder.spec)

    async def StreamEmbed(
        self, request_iterator: AsyncIterator[pb.StreamEmbedRequest], context: Context
    ) -> AsyncIterator[pb.StreamEmbedResponse]:
        async for outcome in embed_stream(self._catalog, caller(context).tenant, convert.items_from(request_iterator)):
            yield convert.outcome_to(outcome)

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        reranker = self._catalog.reranker(request.model)
        reranking = await rerank(
            reranker,
            caller(context).tenant,
            request.query,
            request.documents,
            top_n=request.top_n,
            truncate=request.truncate or not request.HasField("truncate"),
            timeout_s=_remaining_s(),
        )
        return convert.reranking_to(reranking, reranker.spec)

    async def CountTokens(self, request: pb.CountTokensRequest, context: Context) -> pb.CountTokensResponse:
        embedder = self._catalog.embedder(request.model)
        return convert.counts_to(await embedder.count_tokens(request.texts), embedder.spec)


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def ListModels(
        self, request: model_service_pb2.ListModelsRequest, context: Context
    ) -> model_service_pb2.ListModelsResponse:
        page = self._catalog.page(
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.models_to(page, self._catalog)

    async def GetModel(self, request: model_service_pb2.GetModelRequest, context: Context) -> model_pb2.Model:
        return convert.model_to(self._catalog.spec(request.name), self._catalog)


class TokenizerServicer(internal_grpc.TokenizerServiceServicer):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    async def GetTokenizer(
        self, request: internal_pb.GetTokenizerRequest, context: Context
    ) -> internal_pb.GetTokenizerResponse:
        return convert.tokenizer_to(self._catalog.embedder(request.model))


class TenantServicer(tenant_grpc.TenantServiceServicer):
    def __init__(self, cache: TieredCache) -> None:
        self._cache = cache

    async def EraseTenant(
        self, request: tenant_pb.EraseTenantRequest, context: Context
    ) -> tenant_pb.EraseTenantResponse:
        count, done = await self._cache.erase(caller(context).tenant)
        return tenant_pb.EraseTenantResponse(count=count, erased=done and not count)

    async def AdmitTenant(
        self, request: tenant_pb.AdmitTenantRequest, context: Context
    ) -> tenant_pb.AdmitTenantResponse:
        return tenant_pb.AdmitTenantResponse()


def _remaining_s() -> float | None:
    call = current_call()
    return call.remaining_s() if call else None
