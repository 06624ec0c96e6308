"""Cross-encoders on onnxruntime, from a folder as sentence-transformers and Optimum export them."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from services.embedding.adapters.onnx import inference_threads, revision_of, session_of
from services.embedding.models import RerankerSpec
from services.embedding.ports import Tokens

# sentence-transformers puts the graph into a folder of its own, Optimum beside the rest.
_WEIGHTS: Final = ("model.onnx", "onnx/model.onnx")
_INPUTS: Final = {"input_ids", "attention_mask", "token_type_ids"}
_INTEGERS: Final = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
# What Hugging Face's tokenizers write where there is no limit is far above.
_MOST_TOKENS: Final = 2**20
_USUAL_TOKENS: Final = 512
# Position ids of these begin after the padding's, so that so many fewer tokens fit.
_OFFSET_POSITIONS: Final = {"roberta": 2, "xlm-roberta": 2, "camembert": 2}


class ModelFolderUnusable(Exception):
    """A folder that holds no cross-encoder this can run; names it, and says what is missing."""


class OnnxCrossEncoder:
    """One session that all workers share, each a thread that runs a batch on its own core; fulfils CrossEncoder.

    The score is the sigmoid of the one logit, or the probability of the second of two classes.
    """

    def __init__(self, model: str, folder: Path, workers: int, niceness: int = 0) -> None:
        weights = _weights(folder)
        config = _json(folder / "config.json")
        self._tokenizer = _tokenizer(folder)
        try:
            self._session = session_of(weights)
        except Exception:  # onnxruntime's own, of a dozen classes without a common base
            raise ModelFolderUnusable(f"{weights} is not a model that onnxruntime can load") from None
        self._inputs = {each.name: _INTEGERS.get(each.type) for each in self._session.get_inputs()}
        if not {"input_ids", "attention_mask"} <= self._inputs.keys() <= _INPUTS or None in self._inputs.values():
            raise ModelFolderUnusable(
                f"{weights} takes {', '.join(self._inputs)}; a cross-encoder takes the integers "
                "input_ids, attention_mask and, some, token_type_ids"
            )
        self._pad = int(config.get("pad_token_id") or 0)
        self._spec = RerankerSpec(
            id=model,
            display_name=model,
            max_tokens=_max_tokens(folder, config),
            revision=revision_of(sorted([*weights.parent.glob("model.onnx*"), *folder.glob("*.json")])),
        )
        self._check(weights)
        self._inference = inference_threads(workers, f"inference {model}", niceness)
        self._tokenization = ThreadPoolExecutor(1, f"tokenization {model}")

    @classmethod
    @asynccontextmanager
    async def open(cls, model: str, folder: Path, *, workers: int, niceness: int = 0) -> AsyncIterator[Self]:
        """The model, loaded; waits for running batches on leaving.

        Args:
            model: The id to give it.
            folder: With tokenizer.json, config.json and model.onnx, which may be in a folder `onnx`.
            workers: Batches that run at a time.
            niceness: As `inference_threads` has it.

        Raises:
            ModelFolderUnusable: Something is missing, or it is no cross-encoder.
        """
        encoder = await asyncio.to_thread(cls, model, folder, workers, niceness)
        try:
            yield encoder
        finally:
            await asyncio.to_thread(encoder._close)

    @property
    def spec(self) -> RerankerSpec:
        return self._spec

    async def tokenize(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        return await asyncio.get_running_loop().run_in_executor(self._tokenization, self._tokens, query, texts)

    async def score(self, batch: Sequence[Tokens]) -> list[float]:
        return await asyncio.get_running_loop().run_in_executor(self._inference, self._scores, batch)

    def _tokens(self, query: str, texts: Sequence[str]) -> list[Tokens]:
        # Not encode(), which holds the GIL throughout.
        pairs = [(query, text) for text in texts]
        return [self._cut(encoding) for encoding in self._tokenizer.encode_batch_fast(pairs)]

    def _cut(self, encoding: Encoding) -> Tokens:
        ids, type_ids, limit = encoding.ids, encoding.type_ids, self._spec.max_tokens
        if len(ids) <= limit:
            return Tokens(ids, len(ids), type_ids)
        parts = encoding.sequence_ids
        query, text = parts.count(0), parts.count(1)
        room = limit - (len(parts) - query - text)
        kept_of_query = min(query, max(room // 2, room - text))
        kept = [*_first(parts, {0: kept_of_query, 1: room - kept_of_query})]
        return Tokens([ids[at] for at in kept], len(ids), [type_ids[at] for at in kept])

    def _scores(self, batch: Sequence[Tokens]) -> list[float]:
        logits = self._logits(batch)
        # In double precision: a float's sigmoid is 1 from a logit of 17 on, where good passages would tie.
        positive = logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
        scores: list[float] = (0.5 * (1 + np.tanh(positive / 2))).tolist()
        return scores

    def _logits(self, batch: Sequence[Tokens]) -> npt.NDArray[np.float64]:
        """One row a text, of one or two columns."""
        shape = (len(batch), max(len(tokens.ids) for tokens in batch))
        filled = {"input_ids": self._pad, "attention_mask": 0, "token_type_ids": 0}
        feed = {name: np.full(shape, filled[name], kind) for name, kind in self._inputs.items()}
        for row, tokens in enumerate(batch):
            read = slice(len(tokens.ids))
            feed["input_ids"][row, read] = tokens.ids
            feed["attention_mask"][row, read] = 1
            if "token_type_ids" in feed:
                feed["token_type_ids"][row, read] = tokens.type_ids
        logits = np.asarray(self._session.run(None, feed)[0], np.float64)
        return logits.reshape(len(batch), -1)

    def _check(self, weights: Path) -> None:
        """Runs the model once: only then is it known what comes out."""
        try:
            logits = self._logits(self._tokens("Does it answer?", ["It answers.", "It answers, at some length."]))
        except Exception:
            raise ModelFolderUnusable(f"{weights} fails on a query and a text") from None
        if logits.shape[1] not in (1, 2):
            raise ModelFolderUnusable(
                f"{weights} gives {logits.shape[1]} numbers for a text; a cross-encoder gives one logit, or two classes"
            )

    def _close(self) -> None:
        self._tokenization.shutdown()
        self._inference.shutdown()


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (path := folder / name).is_file():
            return path
    raise ModelFolderUnusable(f"{folder} holds no model.onnx, nor does a folder onnx in it")


def _tokenizer(folder: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # its only class of error
        raise ModelFolderUnusable(f"{folder / 'tokenizer.json'} is missing, or not a tokenizer") from None
    # The file may cut and pad, which would hide a text's length.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise ModelFolderUnusable(f"{path} is missing, or not a JSON object")
    return content


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """The least of what the model and its tokenizer say."""
    described = folder / "tokenizer_config.json"
    limits = [_json(described).get("model_max_length")] if described.is_file() else []
    if isinstance(positions := config.get("max_position_embeddings"), int):
        limits.append(positions - _OFFSET_POSITIONS.get(config.get("model_type", ""), 0))
    return int(
        min(
            (each for each in limits if isinstance(each, (int, float)) and 0 < each < _MOST_TOKENS),
            default=_USUAL_TOKENS,
        )
    )


def _first(parts: Sequence[int | None], limits: dict[int, int]) -> Iterator[int]:
    """Where the tokens to keep are: so many of each part, and all that belong to none."""
    left = dict(limits)
    for at, part in enumerate(parts):
        if part is None:
            yield at
        elif left[part]:
            left[part] -= 1
            yield at
