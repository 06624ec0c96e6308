"""Vectors of queries, from the embedding service."""

from array import array

import grpc

from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.mesh.errors import DependencyUnavailable, TextTooLong, Violation
from services.retrieval.ports import QueryEmbedding


class EmbeddingClient:
    """Fulfils QueryEmbedder."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = EmbeddingServiceStub(channel)

    async def embed(self, model: str, text: str) -> QueryEmbedding:
        try:
            answer = await self._service.Embed(pb.EmbedRequest(model=model, texts=[text], input_type=pb.QUERY))
        except grpc.aio.AioRpcError as error:
            match error.code():
                case grpc.StatusCode.UNAVAILABLE:
                    raise DependencyUnavailable("embedding is unavailable", retry_after_s=1.0) from None
                case grpc.StatusCode.INVALID_ARGUMENT:  # model and text are well-formed: it is too long
                    description = (error.details() or "is too long").removeprefix("texts[0]").removeprefix(":").strip()
                    raise TextTooLong(f"query: {description}", violations=[Violation("query", description)]) from None
            raise
        (embedding,) = answer.embeddings
        return QueryEmbedding(array("f", embedding.values).tobytes(), embedding.token_count)
