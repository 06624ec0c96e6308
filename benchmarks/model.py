"""What the model takes to read texts, as published and as it is run: `python -m benchmarks.model`."""

import asyncio
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.in_process import BareModel
from ragweave.cli.demo import documents
from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.ports import InputType, Tokens

# Texts of a batch, and tokens of each.
_BATCHES: Final = ((1, 8), (1, 12), (1, 18), (2, 12), (3, 12), (4, 12), (8, 12), (1, 32), (1, 64), (1, 128), (1, 256))
_TIMES: Final = 40
_PASSAGE_WORDS, _QUESTION_WORDS, _QUESTIONS, _TOP = 60, 6, 100, 10


async def main() -> None:
    """Prints both tables."""
    published = BareModel(1)
    async with OnnxModel.open(ModelFiles.packaged(), workers=1) as model:
        table = Table("texts", "tokens", "published, ms", "document, ms", "cosine", "query, ms", "cosine")
        for count, length in _BATCHES:
            table.add_row(str(count), str(length), *await _compared(published, model, count, length))
        console = Console(width=160)
        console.print(table)
        console.print(await _found(model))


async def _compared(published: BareModel, model: OnnxModel, count: int, length: int) -> list[str]:
    """The least times, and by turns, so that whatever else the machine does slows all of them."""
    random = np.random.default_rng((count, length))
    ids = np.pad(random.integers(999, 30_522, (count, length - 2)), ((0, 0), (1, 1)), constant_values=(101, 102))
    batch = [Tokens(each.tolist(), length) for each in ids]
    took_s: list[list[float]] = [[], [], []]
    for _ in range(_TIMES):
        began_s = time.perf_counter()
        exact = published.vectors(ids)
        took_s[0].append(time.perf_counter() - began_s)
        for at, input_type in enumerate(InputType, 1):
            began_s = time.perf_counter()
            await model.embed(batch, input_type)
            took_s[at].append(time.perf_counter() - began_s)
    like = [(await _vectors(model, batch, input_type) * exact).sum(axis=1).min() for input_type in InputType]
    published_ms, document_ms, query_ms = (f"{1e3 * min(each):.1f}" for each in took_s)
    document_like, query_like = (f"{each:.5f}" for each in like)
    return [published_ms, document_ms, document_like, query_ms, query_like]


async def _found(model: OnnxModel) -> str:
    """Of passages nearest to questions by exact vectors, how many are found by those of queries."""
    words = [each["text"].split() for each in documents()]
    texts = [" ".join(each[at : at + _PASSAGE_WORDS]) for each in words for at in range(0, len(each), _PASSAGE_WORDS)]
    passages = [await _vectors(model, [each], InputType.DOCUMENT) for each in await model.tokenize(texts)]
    some = texts[:: len(texts) // _QUESTIONS][:_QUESTIONS]
    questions = await model.tokenize([" ".join(each.split()[-_QUESTION_WORDS:]) for each in some])
    nearest = []
    for input_type in InputType:
        asked = np.concatenate([await _vectors(model, [each], input_type) for each in questions])
        nearest.append(np.argsort(-asked @ np.concatenate(passages).T)[:, :_TOP].tolist())
    share = fmean(len({*exact} & {*found}) / _TOP for exact, found in zip(*nearest, strict=True))
    same = fmean(exact[0] == found[0] for exact, found in zip(*nearest, strict=True))
    return f"{len(texts)} passages, {_QUESTIONS} questions: {share:.3f} of the ten nearest, {same:.2f} of the nearest"


async def _vectors(model: OnnxModel, batch: Sequence[Tokens], input_type: InputType) -> NDArray[np.float32]:
    return np.frombuffer(b"".join(await model.embed(batch, input_type)), "<f4").reshape(len(batch), -1)


if __name__ == "__main__":
    asyncio.run(main())
