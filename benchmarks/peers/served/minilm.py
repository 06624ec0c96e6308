"""all-MiniLM-L6-v2 for a peer: the files that ours reads, and as many threads. Runs in the peer's own environment."""

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

_MAX_TOKENS = 256
DIMENSION = 384


class MiniLM:
    """As services/embedding/adapters/onnx.py: a run keeps to the thread that asks for it, and there are as many at a
    time as there are cores; more would only wait for each other.
    """

    def __init__(self, weights: Path, tokenizer: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        self._running = threading.BoundedSemaphore(os.cpu_count() or 1)

    @classmethod
    def from_environment(cls) -> Self:
        """The files that MINILM_WEIGHTS and MINILM_TOKENIZER name."""
        return cls(Path(os.environ["MINILM_WEIGHTS"]), Path(os.environ["MINILM_TOKENIZER"]))

    def vector(self, text: str) -> NDArray[np.float32]:
        """The mean over the tokens, of length 1."""
        with self._running:
            ids = np.array([self._tokenizer.encode(text).ids], np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            (hidden,) = self._session.run(["last_hidden_state"], feed)
        mean = hidden[0].mean(axis=0)
        return mean / np.linalg.norm(mean)


@dataclass(frozen=True)
class Corpus:
    """What a peer is to hold, in the folder that CORPUS names."""

    ids: list[str]
    texts: list[str]
    vectors: NDArray[np.float32]

    @classmethod
    def from_environment(cls) -> Self:
        folder = Path(os.environ["CORPUS"])
        chunks = json.loads((folder / "chunks.json").read_text())
        return cls([each["id"] for each in chunks], [each["text"] for each in chunks], np.load(folder / "vectors.npy"))
