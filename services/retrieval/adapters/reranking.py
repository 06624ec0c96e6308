"""Scores of passages, from the embedding service."""

from collections.abc import Sequence
from typing import Final

import grpc

from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.mesh.errors import (
    DeadlineExceeded,
    DependencyUnavailable,
    FailedPrecondition,
    ModelNotFound,
    TooManyRequests,
)
from services.mesh.status import DETAILS_KEY
from services.retrieval.ports import PassageScores

_RETRY_S: Final = 1.0


class RerankingClient:
    """Fulfils PassageReranker."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = EmbeddingServiceStub(channel)

    async def rerank(self, model: str, query: str, passages: Sequence[str]) -> PassageScores:
        request = pb.RerankRequest(model=model, query=query, documents=passages)
        try:
            answer = await self._service.Rerank(request)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        scores = {each.index: each.score for each in answer.results}
        return PassageScores(answer.model, [scores[index] for index in range(len(passages))])


def _failure(error: grpc.aio.AioRpcError) -> Exception:
    """Why there are no scores, as the port says it; the error itself where that is neither the model's fault nor that
    of who runs it.
    """
    said = (error.details() or "").removeprefix("model: ")
    match error.code():
        case grpc.StatusCode.NOT_FOUND:
            return ModelNotFound(said)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return FailedPrecondition(said)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return TooManyRequests(said, retry_after_s=_RETRY_S)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded("the embedding service did not rerank in time; give the search more time")
        case grpc.StatusCode.UNAVAILABLE if DETAILS_KEY in dict(error.trailing_metadata() or ()):
            return DependencyUnavailable(said, retry_after_s=_RETRY_S)  # of the endpoint that runs the model
        case grpc.StatusCode.UNAVAILABLE:
            return DependencyUnavailable("embedding is unavailable", retry_after_s=_RETRY_S)
        case grpc.StatusCode.INTERNAL | grpc.StatusCode.UNKNOWN | grpc.StatusCode.UNIMPLEMENTED:
            return DependencyUnavailable("the embedding service failed at reranking", retry_after_s=_RETRY_S)
    return error
