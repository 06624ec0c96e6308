"""Models, as the embedding service lists them."""

import grpc

from ragweave.v1 import model_pb2, model_service_pb2
from ragweave.v1.model_service_pb2_grpc import ModelServiceStub
from services.collections.adapters.grpc_errors import answering, passing_over_the_missing
from services.collections.ports import EmbeddingModel
from services.mesh.errors import ModelNotFound


class EmbeddingModels:
    """Fulfils Models."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = ModelServiceStub(channel)

    async def embedding_model(self, name: str) -> EmbeddingModel:
        with answering("embedding"):
            model = await (self._named(name) if name else self._default())
        if model is None or model.kind != model_pb2.Model.EMBEDDING:
            raise ModelNotFound(f"no embedding model {name!r}" if name else "no default embedding model", model=name)
        return EmbeddingModel(model.name, model.dimension, model.max_tokens)

    async def _named(self, name: str) -> model_pb2.Model | None:
        with passing_over_the_missing():
            return await self._service.GetModel(model_service_pb2.GetModelRequest(name=name))
        return None

    async def _default(self) -> model_pb2.Model | None:
        listed = await self._service.ListModels(model_service_pb2.ListModelsRequest(page_size=100))
        embedding = (each for each in listed.models if each.kind == model_pb2.Model.EMBEDDING)
        return next((each for each in embedding if each.default), None)
