"""What a search is made of, called in one process with no mesh: tokenizer, model, and the vector engine."""

import json
from pathlib import Path
from typing import Final, Protocol, cast

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
import qdrant_edge as edge
from numpy.typing import NDArray
from tokenizers import Tokenizer

from ragweave.copying import copy_tree
from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.ports import InputType
from services.retrieval.adapters.qdrant_keys import DENSE, SPARSE
from services.retrieval.sparse import encoder_for

# The model's own limit, to which longer texts are cut.
MAX_TOKENS: Final = 256


class Embeds(Protocol):
    """A text in, its normalised vector out."""

    def embed(self, text: str) -> list[float]: ...


class BareModel:
    """Tokenizer and model alone, the model's file as it was published.

    Args:
        threads: Of each run; several texts may be embedded at a time, each by threads of its own.
    """

    def __init__(self, threads: int) -> None:
        files = ModelFiles.packaged()
        self._tokenizer = Tokenizer.from_file(str(files.tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(files.weights, options, providers=["CPUExecutionProvider"])

    def embed(self, text: str) -> list[float]:
        [vector] = self.vectors(np.array([self._tokenizer.encode(text).ids], np.int64)).tolist()
        return cast(list[float], vector)

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Those of texts of as many tokens each."""
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        (hidden,) = self._session.run(["last_hidden_state"], feed)
        pooled = hidden.mean(axis=1)
        return cast(NDArray[np.float32], pooled / np.linalg.norm(pooled, axis=1, keepdims=True))


class FusedModel:
    """Tokenizer and model alone, the model by the graphs that the mesh runs, on the caller's thread."""

    def __init__(self, input_type: InputType) -> None:
        self._model = OnnxModel(ModelFiles.packaged(), workers=1)
        self._input_type = input_type

    def embed(self, text: str) -> list[float]:
        [vector] = self._model.vectors(self._model.tokens([text]), self._input_type)
        return cast(list[float], np.frombuffer(vector, "<f4").tolist())


class BareSearch:
    """Hybrid search by a model and a shard of the engine: its own fusion of the nearest by vector and by words.

    Args:
        shard: Any number of searches may share it: it takes one query at a time.
        depth: Candidates of each kind that are fused, as many as the mesh fuses.
        top_k: Hits, with all that is kept of them.
    """

    def __init__(self, model: Embeds, shard: edge.EdgeShard, *, depth: int = 200, top_k: int = 10) -> None:
        self._model = model
        self._shard = shard
        self._encoder = encoder_for("en")
        self._depth = depth
        self._top_k = top_k

    def search(self, question: str) -> list[edge.ScoredPoint]:
        """The hits, best first."""
        words = self._encoder.query(question)
        sparse = edge.SparseVector(indices=list(words.indices), values=list(words.values))
        nearest = (
            edge.Query.Nearest(self._model.embed(question), using=DENSE),
            edge.Query.Nearest(sparse, using=SPARSE),
        )
        request = edge.QueryRequest(
            self._top_k,
            query=cast(edge.Fusion, edge.Fusion.Rrf(k=60)),
            prefetches=[edge.Prefetch(self._depth, query=each) for each in nearest],
            with_payload=True,
        )
        return self._shard.query(request)


def copied_shard(index: Path, to: Path) -> edge.EdgeShard:
    """A copy, opened, of the shard of an index of the embedded store, to which nobody writes meanwhile."""
    generation = json.loads((index / "manifest.json").read_text())["generation"]
    copy_tree(index / f"g{generation}", to)
    return edge.EdgeShard.load(str(to))
