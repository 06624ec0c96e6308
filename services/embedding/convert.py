"""Between the contract's messages and the domain."""

from collections.abc import AsyncIterator, Sequence

import numpy as np
from google.rpc.status_pb2 import Status

from ragweave.internal.v1 import tokenizer_service_pb2 as internal_pb
from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1 import model_pb2, model_service_pb2
from services.embedding.embedder import Embedder, Embedding
from services.embedding.models import Catalog, ModelSpec, RerankerSpec
from services.embedding.ports import InputType
from services.embedding.reranker import Reranking
from services.embedding.stream import Embedded, Ended, Item
from services.mesh.errors import DomainError
from services.mesh.lists import Page
from services.mesh.status import status_of

# As the contract bounds EmbedRequest.texts and RerankRequest.documents; a test compares them.
MAX_BATCH_SIZE = 256
MAX_RERANKED = 200


def input_type_from(input_type: "pb.InputType.ValueType") -> InputType:
    return InputType.QUERY if input_type == pb.QUERY else InputType.DOCUMENT


def embedding_to(embedding: Embedding) -> pb.Embedding:
    return pb.Embedding(
        values=np.frombuffer(embedding.vector, "<f4").tolist(),
        token_count=embedding.token_count,
        truncated=embedding.truncated,
        cached=embedding.cached,
    )


def embeddings_to(embeddings: Sequence[Embedding], spec: ModelSpec) -> pb.EmbedResponse:
    return pb.EmbedResponse(
        embeddings=[embedding_to(each) for each in embeddings], model=spec.name, model_revision=spec.revision
    )


async def items_from(requests: AsyncIterator[pb.StreamEmbedRequest]) -> AsyncIterator[Item]:
    async for request in requests:
        yield Item(request.id, request.text, request.model, input_type_from(request.input_type), request.truncate)


def outcome_to(outcome: Embedded | Ended) -> pb.StreamEmbedResponse:
    match outcome:
        case Ended(error=None):
            return pb.StreamEmbedResponse(final_status=Status())
        case Ended(error=Exception() as error):
            return pb.StreamEmbedResponse(final_status=status_of(error))
        case Embedded(id=id, outcome=DomainError() as error):
            return pb.StreamEmbedResponse(id=id, error=status_of(error))
        case Embedded(id=id, outcome=Embedding() as embedding):
            return pb.StreamEmbedResponse(id=id, embedding=embedding_to(embedding))
    raise TypeError(f"no message for {outcome!r}")


def counts_to(counts: Sequence[int], spec: ModelSpec) -> pb.CountTokensResponse:
    return pb.CountTokensResponse(token_counts=counts, max_tokens=spec.max_tokens, model=spec.name)


def reranking_to(reranking: Reranking, spec: RerankerSpec) -> pb.RerankResponse:
    return pb.RerankResponse(
        results=[
            pb.RerankResponse.Result(index=each.index, score=each.score.value, truncated=each.score.truncated)
            for each in reranking.results
        ],
        model=spec.name,
        model_revision=spec.revision,
        total_tokens=reranking.total_tokens,
    )


def model_to(spec: ModelSpec | RerankerSpec, catalog: Catalog) -> model_pb2.Model:
    if isinstance(spec, RerankerSpec):
        return model_pb2.Model(
            name=spec.name,
            display_name=spec.display_name,
            kind=model_pb2.Model.RERANKING,
            max_tokens=spec.max_tokens,
            max_batch_size=MAX_RERANKED,
            revision=spec.revision,
            default=catalog.is_default(spec),
        )
    return model_pb2.Model(
        name=spec.name,
        display_name=spec.display_name,
        kind=model_pb2.Model.EMBEDDING,
        dimension=spec.dimension,
        max_tokens=spec.max_tokens,
        max_batch_size=MAX_BATCH_SIZE,
        distance=spec.distance,
        normalized=spec.normalized,
        license=spec.license,
        languages=spec.languages,
        revision=spec.revision,
        default=catalog.is_default(spec),
    )


def models_to(page: Page[ModelSpec | RerankerSpec], catalog: Catalog) -> model_service_pb2.ListModelsResponse:
    return model_service_pb2.ListModelsResponse(
        models=[model_to(spec, catalog) for spec in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def tokenizer_to(embedder: Embedder) -> internal_pb.GetTokenizerResponse:
    spec = embedder.spec
    return internal_pb.GetTokenizerResponse(
        tokenizer_json=embedder.tokenizer_json,
        max_tokens=spec.max_tokens,
        special_tokens=spec.special_tokens,
        model=spec.id,
        model_revision=spec.revision,
        dimension=spec.dimension,
    )
