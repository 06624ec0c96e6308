"""Vectors of queries, from the embedding service."""

import re
from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Final

import grpc
from google.rpc.status_pb2 import Status

from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.mesh.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    DomainError,
    ModelNotFound,
    TextTooLong,
    TooManyRequests,
    Violation,
)
from services.retrieval.ports import QueryEmbedding

_RETRY_S: Final = 1.0
_NAMED: Final = re.compile(r"^texts?(\[\d+\])?:?\s*")


class EmbeddingClient:
    """Fulfils QueryEmbedder.

    Args:
        recompute: Vectors are made where a cache may have them.
    """

    def __init__(self, channel: grpc.aio.Channel, *, recompute: bool = False) -> None:
        self._service = EmbeddingServiceStub(channel)
        self._recompute = recompute

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        try:
            request = pb.EmbedRequest(model=model, texts=[text], input_type=pb.QUERY, recompute=self._recompute)
            answer = await self._service.Embed(request)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, model) from None
        (embedding,) = answer.embeddings
        return _made(embedding)

    async def embed_each(self, model: str, texts: Sequence[str]) -> Sequence[QueryEmbedding | DomainError]:
        found: dict[int, QueryEmbedding | DomainError] = {}
        try:
            async for answer in self._service.StreamEmbed(_asked(model, texts)):
                match answer.WhichOneof("result"):
                    case "embedding":
                        found[int(answer.id)] = _made(answer.embedding)
                    case "error":
                        found[int(answer.id)] = _refused(answer.error)
        except grpc.aio.AioRpcError as error:
            raise _failure(error, model) from None
        return [found[number] for number in range(len(texts))]


async def _asked(model: str, texts: Sequence[str]) -> AsyncIterator[pb.StreamEmbedRequest]:
    for number, text in enumerate(texts):
        yield pb.StreamEmbedRequest(id=str(number), text=text, model=model, input_type=pb.QUERY)


def _made(embedding: pb.Embedding) -> QueryEmbedding:
    return QueryEmbedding(array("f", embedding.values).tobytes(), embedding.token_count)


def _refused(status: Status) -> DomainError:
    if status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]:
        return _too_long(status.message)
    return DependencyUnavailable("the embedding service failed at the query", retry_after_s=_RETRY_S)


def _too_long(told: str) -> TextTooLong:
    """Model and text were well-formed, so it is too long. `told` names the text as the other service knows it."""
    description = _NAMED.sub("", told or "is too long")
    return TextTooLong(f"query: {description}", violations=[Violation("query", description)])


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
        case grpc.StatusCode.INVALID_ARGUMENT:
            return _too_long(error.details() or "")
    return error
