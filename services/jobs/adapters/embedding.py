"""The ports Embedding and Models over the embedding service."""

import sys
import time
from array import array
from collections.abc import Sequence

import grpc
from tokenizers import Tokenizer

from ragweave.internal.v1 import tokenizer_service_pb2
from ragweave.internal.v1.tokenizer_service_pb2_grpc import TokenizerServiceStub
from ragweave.v1 import embedding_service_pb2 as pb
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from services.jobs.adapters.hugging_face import HuggingFaceTokenizer
from services.jobs.ports import EmbeddingModel, Vectors

# A model that was exchanged behind a name is noticed after so long, or with the first vector of it.
_FRESH_S = 300.0


class EmbeddingClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = EmbeddingServiceStub(channel)

    async def embed(self, model: str, texts: Sequence[str]) -> Vectors:
        """A text over the model's limit is refused, not cut: chunks are made to fit."""
        found = await self._stub.Embed(pb.EmbedRequest(model=model, texts=texts, input_type=pb.DOCUMENT))
        return Vectors([_packed(each.values) for each in found.embeddings], found.model_revision)


class ModelsClient:
    """Remembers each model's tokenizer for a while: it is some hundred kilobytes."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TokenizerServiceStub(channel)
        self._models: dict[str, tuple[float, EmbeddingModel]] = {}

    async def model(self, name: str) -> EmbeddingModel:
        asked, known = self._models.get(name, (0.0, None))
        if known is not None and time.monotonic() - asked < _FRESH_S:
            return known
        found = await self._stub.GetTokenizer(tokenizer_service_pb2.GetTokenizerRequest(model=name))
        model = EmbeddingModel(
            name=found.model,
            revision=found.model_revision,
            max_tokens=found.max_tokens,
            dimension=found.dimension,
            tokenizer=HuggingFaceTokenizer(Tokenizer.from_buffer(found.tokenizer_json)),
        )
        self._models[name] = time.monotonic(), model
        return model

    def forget(self, name: str) -> None:
        self._models = {key: known for key, known in self._models.items() if name not in (key, known[1].name)}


def _packed(values: Sequence[float]) -> bytes:
    packed = array("f", values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()
