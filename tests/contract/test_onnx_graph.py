"""The graphs that read all-MiniLM-L6-v2, held to the published one as onnxruntime runs it plainly."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from statistics import fmean

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from ragweave.cli.demo import documents
from services.embedding.adapters.onnx import ModelFiles, OnnxModel
from services.embedding.adapters.onnx_weights import WeightsUnexpected, read_weights
from services.embedding.ports import InputType, Tokens
from tests.cross_encoders import write_cross_encoder

NEAREST = {InputType.DOCUMENT: 0.99999, InputType.QUERY: 0.999}
LENGTHS = (3, 12, 128, 256)
TOP = 10


class Published:
    """The file as it is, on onnxruntime as it comes."""

    def __init__(self) -> None:
        self._session = onnxruntime.InferenceSession(ModelFiles.packaged().weights, providers=["CPUExecutionProvider"])

    def vector(self, tokens: Tokens) -> NDArray[np.float32]:
        ids = np.array([tokens.ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        pooled = self._session.run(None, feed)[0][0].mean(axis=0)
        vector: NDArray[np.float32] = pooled / np.linalg.norm(pooled)
        return vector


@pytest.fixture(scope="module")
def published() -> Published:
    return Published()


@pytest.fixture
async def model() -> AsyncIterator[OnnxModel]:
    async with OnnxModel.open(ModelFiles.packaged(), workers=2) as opened:
        yield opened


async def vectors(model: OnnxModel, batch: Sequence[Tokens], input_type: InputType) -> NDArray[np.float32]:
    return np.array([np.frombuffer(vector, "<f4") for vector in await model.embed(batch, input_type)])


def text_of(length: int, seed: int = 0) -> Tokens:
    """Any tokens at all, between [CLS] and [SEP]."""
    words = np.random.default_rng((seed, length)).integers(999, 30_522, length - 2)
    return Tokens([101, *words.tolist(), 102], length)


@pytest.mark.parametrize("input_type", InputType)
async def test_vectors_are_the_published_ones_at_every_length(
    model: OnnxModel, published: Published, input_type: InputType
) -> None:
    for length in LENGTHS:
        tokens = text_of(length)
        [vector] = await vectors(model, [tokens], input_type)
        assert vector @ published.vector(tokens) >= NEAREST[input_type], length


@pytest.mark.parametrize("input_type", InputType)
async def test_a_vector_depends_on_its_text_alone(
    model: OnnxModel, published: Published, input_type: InputType
) -> None:
    """Padded, before or behind longer texts, or beside others as long."""
    for lengths in (LENGTHS[:3], LENGTHS[::-1], (12, 8, 10, 12, 3), (7,) * 8):
        batch = [text_of(length, seed) for seed, length in enumerate(lengths)]
        together = await vectors(model, batch, input_type)
        alone = np.concatenate([await vectors(model, [tokens], input_type) for tokens in batch])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        for vector, tokens in zip(together, batch, strict=True):
            assert vector @ published.vector(tokens) >= NEAREST[input_type]


async def test_questions_find_what_exact_vectors_of_them_find(model: OnnxModel) -> None:
    """As much of it, at least: of all passages of the demo, .98 (`python -m benchmarks.model`)."""
    words = [each["text"].split() for each in documents()]
    passages = await model.tokenize([" ".join(each[:24]) for each in words])
    questions = await model.tokenize([" ".join(each[30:36]) for each in words])
    embedded = await vectors(model, passages, InputType.DOCUMENT)
    nearest = {
        input_type: np.argsort(-await vectors(model, questions, input_type) @ embedded.T)[:, :TOP].tolist()
        for input_type in InputType
    }
    pairs = zip(nearest[InputType.QUERY], nearest[InputType.DOCUMENT], strict=True)
    assert fmean(len({*found} & {*exact}) / TOP for found, exact in pairs) >= 0.95


def test_a_file_that_is_not_of_the_model_is_refused_and_named(tmp_path: Path) -> None:
    other = write_cross_encoder(tmp_path, ["word"]) / "model.onnx"
    with pytest.raises(WeightsUnexpected, match=rf"{other} is not all-MiniLM-L6-v2 .*: it should have Softmax 6 times"):
        read_weights(other)
    other.write_bytes(b"nothing of the sort")
    with pytest.raises(WeightsUnexpected, match=rf"{other} is not an ONNX graph"):
        read_weights(other)
    with pytest.raises(WeightsUnexpected, match="nowhere is not an ONNX graph"):
        read_weights(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("part", "missing"),
    [
        ("inner.encoder.layer.5.output.dense.bias", "MatMul before encoder.layer.5.output.dense.bias"),
        ("inner.encoder.layer.3.attention.output.LayerNorm.weight", "inner.*LayerNorm.weight: float32.384."),
        ("inner.embeddings.word_embeddings.weight_q", "inner.*word_embeddings.weight_q: int8.30522, 384."),
    ],
)
def test_a_file_that_lacks_a_part_of_the_model_is_refused_by_its_name(tmp_path: Path, part: str, missing: str) -> None:
    whole = onnx.load(ModelFiles.packaged().weights)
    for constant in whole.graph.initializer:
        if constant.name == part:
            constant.CopyFrom(numpy_helper.from_array(np.zeros(1, np.float64), part))
    for node in whole.graph.node:
        if node.op_type == "Add" and part in node.input:
            node.op_type = "Sub"
    file = tmp_path / "model.onnx"
    onnx.save(whole, file)
    with pytest.raises(WeightsUnexpected, match=missing):
        read_weights(file)
