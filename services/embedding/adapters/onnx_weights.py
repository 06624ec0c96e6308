"""What the published file of all-MiniLM-L6-v2 holds: six layers of BERT (Devlin et al., NAACL 2019), in 8 bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

HEADS: Final = 12
_LAYERS: Final = 6
WIDTH: Final = 384
_INNER_WIDTH: Final = 4 * WIDTH
_WORDS: Final = 30_522
_POSITIONS: Final = 512
_TYPES: Final = 2
# All of it that is not linear. Were there more or fewer of these, it would be another model.
_OPERATORS: Final = {"Softmax": _LAYERS, "Erf": _LAYERS, "LayerNormalization": 2 * _LAYERS + 1}

Floats = npt.NDArray[np.float32]


class WeightsUnexpected(Exception):
    """A file that does not hold the model it should; names it, and what is amiss."""


@dataclass(frozen=True, slots=True)
class Rounded:
    """A matrix of 8-bit numbers, each times the scale of its column or, in a table, of its row."""

    values: npt.NDArray[np.int8]
    scale: Floats


@dataclass(frozen=True, slots=True)
class Embeddings:
    """What a token begins as, kept in 8 bits: 32 would be 47 MB, of which a text needs some rows.

    Attributes:
        words: A row a token id.
        positions: A row a position, with what is added to tokens of type 0: texts that are read alone have no others.
    """

    words: Rounded
    positions: Floats

    def of(self, ids: npt.NDArray[np.int64]) -> Floats:
        """[batch, tokens, WIDTH], not yet normalised, of token ids [batch, tokens]."""
        embedded = self.words.values[ids] * self.words.scale[ids]
        embedded += self.positions[: ids.shape[1]]
        return embedded


@dataclass(frozen=True, slots=True)
class Linear:
    """Weights, a column an output, and what is added."""

    weights: Rounded
    bias: Floats


@dataclass(frozen=True, slots=True)
class Norm:
    """What a layer normalisation multiplies by, and what it adds."""

    weight: Floats
    bias: Floats


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        attention: To queries, keys and values, beside each other.
    """

    attention: Linear
    attention_output: Linear
    attention_norm: Norm
    intermediate: Linear
    output: Linear
    output_norm: Norm


@dataclass(frozen=True, slots=True)
class Weights:
    """All that the model has learnt.

    Attributes:
        norm: Of embeddings.
        epsilon: Of every normalisation.
    """

    embeddings: Embeddings
    norm: Norm
    layers: Sequence[Layer]
    epsilon: float


def read_weights(file: Path) -> Weights:
    """The weights in a file.

    Raises:
        WeightsUnexpected: It is not of this model.
    """
    graph = _Graph(file)
    positions = graph.table("position_embeddings", _POSITIONS)
    types = graph.floats("embeddings.token_type_embeddings.weight", _TYPES, WIDTH)
    return Weights(
        embeddings=Embeddings(graph.table("word_embeddings", _WORDS), positions.values * positions.scale + types[0]),
        norm=graph.norm("embeddings"),
        layers=[_layer(graph, f"encoder.layer.{number}") for number in range(_LAYERS)],
        epsilon=graph.epsilon(),
    )


def _layer(graph: _Graph, name: str) -> Layer:
    attention = [graph.linear(f"{name}.attention.self.{part}", WIDTH, WIDTH) for part in ("query", "key", "value")]
    return Layer(
        attention=_beside(attention),
        attention_output=graph.linear(f"{name}.attention.output.dense", WIDTH, WIDTH),
        attention_norm=graph.norm(f"{name}.attention.output"),
        intermediate=graph.linear(f"{name}.intermediate.dense", WIDTH, _INNER_WIDTH),
        output=graph.linear(f"{name}.output.dense", _INNER_WIDTH, WIDTH),
        output_norm=graph.norm(f"{name}.output"),
    )


def _beside(parts: Sequence[Linear]) -> Linear:
    """All of them as one, whose outputs are theirs in order."""
    weights = Rounded(
        np.concatenate([each.weights.values for each in parts], axis=1),
        np.concatenate([each.weights.scale for each in parts], axis=1),
    )
    return Linear(weights, np.concatenate([each.bias for each in parts]))


class _Graph:
    """A published graph, asked for what it is expected to have, by the names that its makers gave it.

    Biases have names; the weights of a linear part are what is multiplied by before its bias is added.
    """

    def __init__(self, file: Path) -> None:
        import onnx  # 10 MiB
        from onnx import numpy_helper

        self._file = file
        try:
            graph = onnx.load(file).graph
        except Exception:  # protobuf's, or the system's
            raise WeightsUnexpected(f"{file} is not an ONNX graph") from None
        self._array = numpy_helper.to_array
        self._constants = {each.name: each for each in graph.initializer}
        self._made_by = {output: node for node in graph.node for output in node.output}
        self._added_to = {node.input[1]: node.input[0] for node in graph.node if node.op_type == "Add"}
        self._norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
        found = Counter(node.op_type for node in graph.node)
        for operator, count in _OPERATORS.items():
            if found[operator] != count:
                raise self._unexpected(f"{operator} {count} times, and has it {found[operator]} times")

    def epsilon(self) -> float:
        values = {each.f for node in self._norms for each in node.attribute if each.name == "epsilon"}
        if len(values) != 1:
            raise self._unexpected("one epsilon in all of LayerNormalization")
        return float(values.pop())

    def floats(self, name: str, *shape: int) -> Floats:
        return self._constant(f"inner.{name}", np.float32, *shape)

    def norm(self, name: str) -> Norm:
        parts = (self.floats(f"{name}.LayerNorm.{part}", WIDTH) for part in ("weight", "bias"))
        return Norm(*parts)

    def table(self, name: str, rows: int) -> Rounded:
        return self._rounded(f"inner.embeddings.{name}.weight", (rows, WIDTH), (rows, 1))

    def linear(self, name: str, inputs: int, outputs: int) -> Linear:
        bias = f"{name}.bias"
        product = self._maker(self._added_to.get(f"inner.{bias}"), "MatMul", f"before {bias}")
        weights = self._rounded(product.input[1], (inputs, outputs), (1, outputs))
        return Linear(weights, self.floats(bias, outputs))

    def _rounded(self, name: str, shape: tuple[int, int], scales: tuple[int, int]) -> Rounded:
        product = self._maker(name, "Mul", f"as {name}")
        cast = self._maker(product.input[0], "Cast", f"in {name}")
        values = self._constant(cast.input[0], np.int8, *shape)
        return Rounded(values, self._constant(product.input[1], np.float32, *scales))

    def _maker(self, name: str | None, operator: str, where: str) -> Any:
        node = self._made_by.get(name or "")
        if node is None or node.op_type != operator:
            raise self._unexpected(f"{operator} {where}")
        return node

    def _constant(self, name: str, kind: type, *shape: int) -> npt.NDArray[Any]:
        values = self._array(self._constants[name]) if name in self._constants else np.empty(0)
        if values.dtype != kind or values.shape != shape:
            raise self._unexpected(f"{name}: {kind.__name__}[{', '.join(map(str, shape))}]")
        return values

    def _unexpected(self, expected: str) -> WeightsUnexpected:
        return WeightsUnexpected(f"{self._file} is not all-MiniLM-L6-v2 in 8 bits: it should have {expected}")
