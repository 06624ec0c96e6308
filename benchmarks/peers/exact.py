"""What a search by vectors should find: the model's vectors of all chunks, and the nearest ones, computed plainly."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.corpus import Chunk, digest
from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.ports import InputType


@dataclass(frozen=True)
class Exact:
    """Chunks and their vectors, each of length 1."""

    chunks: Sequence[Chunk]
    vectors: NDArray[np.float32]

    @classmethod
    async def of(cls, chunks: Sequence[Chunk], kept: Path) -> Self:
        """Embeds the chunks, which takes minutes, or reads what it kept in a folder when it did so last."""
        async with OnnxModel.open(ModelFiles.packaged(), workers=2) as model:
            file = kept / f"vectors-{digest(chunks)}-{model.spec.revision}.npy"
            if (vectors := _kept(file)) is None:
                vectors = await _vectors(model, [chunk.text for chunk in chunks])
                _keep(file, vectors)
        return cls(chunks, vectors)

    async def nearest(self, questions: Sequence[str], count: int) -> list[set[str]]:
        """Ids of the chunks most like each question."""
        async with OnnxModel.open(ModelFiles.packaged(), workers=2) as model:
            scores = await _vectors(model, questions) @ self.vectors.T
        rows = np.argpartition(-scores, count, axis=1)[:, :count]
        return [{self.chunks[at].id for at in row} for row in rows]


def _kept(file: Path) -> NDArray[np.float32] | None:
    return np.load(file) if file.exists() else None


def _keep(file: Path, vectors: NDArray[np.float32]) -> None:
    """All of them or, where this is interrupted, none."""
    begun = file.with_suffix(".part")
    with begun.open("wb") as to:
        np.save(to, vectors)
    begun.rename(file)


async def _vectors(model: OnnxModel, texts: Sequence[str]) -> NDArray[np.float32]:
    """As the published graph makes them, of questions too: those that the mesh makes in 8 bits are no measure."""
    tokens = await model.tokenize(texts)
    # Each alone: nothing is spent on padding.
    made = await asyncio.gather(*(model.embed([each], InputType.DOCUMENT) for each in tokens))
    return np.frombuffer(b"".join(vector for [vector] in made), "<f4").reshape(len(texts), -1)
