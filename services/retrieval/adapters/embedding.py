"""Vectors of queries, from the embedding service."""

from array import array
from typing import Final

import grpc

from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.mesh.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    ModelNotFound,
    TextTooLong,
    TooManyRequests,
    Violation,
)
from services.retrieval.ports import QueryEmbedding

_RETRY_S: Final = 1.0


class EmbeddingClient:
    """Fulfils QueryEmbedder."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = EmbeddingServiceStub(channel)

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        try:
            answer = await self._service.Embed(pb.EmbedRequest(model=model, texts=[text], input_type=pb.QUERY))
        except grpc.aio.AioRpcError as error:
            raise _failure(error, model) from None
        (embedding,) = answer.embeddings
        return QueryEmbedding(array("f", embedding.values).tobytes(), embedding.token_count)


def _failure(error: grpc.aio.AioRpcError, model: str) -> Exception:
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return DependencyUnavailable("embedding is unavailable", retry_after_s=_RETRY_S)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the embedding service did not answer in time; give the search more time")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooManyRequests("the embedding service has no room for more queries", retry_after_s=_RETRY_S)
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(f"the embedding service does not offer {model!r}")
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN:  # it has logged what happened
            return DependencyUnavailable("the embedding service failed at the query", retry_after_s=_RETRY_S)
        case grpc.StatusCode.INVALID_ARGUMENT:  # model and text are well-formed: it is too long
            description = (error.details() or "is too long").removeprefix("texts[0]").removeprefix(":").strip()
            return TextTooLong(f"query: {description}", violations=[Violation("query", description)])
    return error
