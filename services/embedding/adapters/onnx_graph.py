"""Graphs of all-MiniLM-L6-v2 for onnxruntime, of operators that each do the work of many.

As published, a layer is some fifty operators, and its weights are unpacked to 32 bits. Here it is seven or nine, most
of them onnxruntime's own (https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md).

Both graphs take `embedded` [batch, tokens, width], as `Embeddings.of` makes it, and `mask` [batch, tokens], 1 of a
token and 0 of padding, in 32 bits; they give `hidden` [batch, tokens, width].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.embedding.adapters.onnx_weights import HEADS, WIDTH, Layer, Linear, Norm, Rounded, Weights

OUTPUT: Final = "hidden"

# Numbers of what is multiplied that share a scale. By 64 it takes 6 % less, and is twice as far off.
_BLOCK: Final = 32
# What MatMulNBits takes as 0, where it is not told.
_ZERO_POINT: Final = 128
# Has MatMulNBits multiply in 8 bits, not 32.
_IN_8_BITS: Final = 4
_FUSED: Final = "com.microsoft"
_OPSETS: Final = {"": 17, _FUSED: 1}
_IR_VERSION: Final = 9


def exact_graph(weights: Weights) -> bytes:
    """Multiplies in 32 bits, as the published graph does."""
    return _Exact(weights).serialized()


def rounding_graph(weights: Weights) -> bytes:
    """Multiplies in 8 bits: the file's own weights, and what they meet rounded, 32 numbers by a scale of their own.

    For short texts: where tokens are few, it is reading the weights that takes the time, and these are a quarter. No
    two tokens share a scale, so that a text's vector is the same in any company.
    """
    return _Rounding(weights).serialized()


class _Graph(ABC):
    """The layers; how weights are multiplied by is left to others."""

    def __init__(self, weights: Weights) -> None:
        from onnx import TensorProto, helper, numpy_helper  # 10 MiB

        self._make, self._tensor, self._float = helper, numpy_helper.from_array, TensorProto.FLOAT
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._epsilon = weights.epsilon
        inputs = ["embedded", *self._norm("embeddings", weights.norm)]
        hidden = self._op("LayerNormalization", inputs, "embeddings", epsilon=self._epsilon)
        for number, layer in enumerate(weights.layers, 1):
            name = f"layer.{number}"
            hidden = self._layer(name, layer, hidden, OUTPUT if number == len(weights.layers) else name)
        sizes = ["batch", "tokens"]
        taken = [
            helper.make_tensor_value_info("embedded", TensorProto.FLOAT, [*sizes, WIDTH]),
            helper.make_tensor_value_info("mask", TensorProto.INT32, sizes),
        ]
        given = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [*sizes, WIDTH])
        self._graph = helper.make_graph(self._nodes, "all-MiniLM-L6-v2", taken, [given], self._constants)

    def serialized(self) -> bytes:
        opsets = [self._make.make_opsetid(domain, version) for domain, version in _OPSETS.items()]
        model = self._make.make_model(self._graph, opset_imports=opsets, ir_version=_IR_VERSION)
        return bytes(model.SerializeToString())

    @abstractmethod
    def _product(self, name: str, hidden: str, weights: Rounded) -> str:
        """Each token's numbers times the weights."""

    @abstractmethod
    def _attended(self, name: str, hidden: str, attention: Linear) -> str:
        """What each token takes from the others of its text."""

    def _layer(self, name: str, layer: Layer, hidden: str, output: str) -> str:
        attended = self._attended(f"{name}.attention", hidden, layer.attention)
        middle = self._added(f"{name}.attention_output", attended, layer.attention_output, hidden, layer.attention_norm)
        wide = self._product(f"{name}.intermediate", middle, layer.intermediate.weights)
        bias = self._constant(f"{name}.intermediate.bias", layer.intermediate.bias)
        inner = self._op("BiasGelu", [wide, bias], f"{name}.gelu", _FUSED)
        return self._added(f"{name}.output", inner, layer.output, middle, layer.output_norm, output)

    def _added(self, name: str, inner: str, linear: Linear, to: str, norm: Norm, output: str = "") -> str:
        """The linear part of what a half of a layer makes, added to what it was made of, and normalised."""
        product = self._product(name, inner, linear.weights)
        inputs = [product, to, *self._norm(name, norm), self._constant(f"{name}.bias", linear.bias)]
        return self._op("SkipLayerNormalization", inputs, output or f"{name}.added", _FUSED, epsilon=self._epsilon)

    def _norm(self, name: str, norm: Norm) -> list[str]:
        return [self._constant(f"{name}.norm.weight", norm.weight), self._constant(f"{name}.norm.bias", norm.bias)]

    def _op(self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        self._nodes.append(self._make.make_node(operator, inputs, [output], domain=domain, **attributes))
        return output

    def _constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self._constants.append(self._tensor(np.ascontiguousarray(values), name))
        return name


class _Exact(_Graph):
    def _product(self, name: str, hidden: str, weights: Rounded) -> str:
        return self._op("MatMul", [hidden, self._unpacked(name, weights)], f"{name}.product")

    def _attended(self, name: str, hidden: str, attention: Linear) -> str:
        inputs = [
            hidden,
            self._unpacked(name, attention.weights),
            self._constant(f"{name}.bias", attention.bias),
            "mask",
        ]
        return self._op("Attention", inputs, f"{name}.attended", _FUSED, num_heads=HEADS)

    def _unpacked(self, name: str, weights: Rounded) -> str:
        """The weights in 32 bits, which onnxruntime computes once, on loading."""
        cast = self._op("Cast", [self._constant(f"{name}.values", weights.values)], f"{name}.cast", to=self._float)
        return self._op("Mul", [cast, self._constant(f"{name}.scale", weights.scale)], f"{name}.weights")


class _Rounding(_Graph):
    def _product(self, name: str, hidden: str, weights: Rounded) -> str:
        inputs, outputs = weights.values.shape
        blocks = inputs // _BLOCK
        columns = (weights.values.T.astype(np.int16) + _ZERO_POINT).astype(np.uint8)
        values = self._constant(f"{name}.values", columns.reshape(outputs, blocks, _BLOCK))
        scale = self._constant(f"{name}.scale", np.repeat(weights.scale.ravel(), blocks))
        sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": _BLOCK, "accuracy_level": _IN_8_BITS}
        return self._op("MatMulNBits", [hidden, values, scale], f"{name}.product", _FUSED, **sizes)

    def _attended(self, name: str, hidden: str, attention: Linear) -> str:
        product = self._product(name, hidden, attention.weights)
        parts = [f"{name}.{part}" for part in ("queries", "keys", "values_")]
        self._nodes.append(self._make.make_node("Split", [product], parts, axis=-1))
        inputs = [*parts, self._constant(f"{name}.bias", attention.bias), "mask"]
        return self._op("MultiHeadAttention", inputs, f"{name}.attended", _FUSED, num_heads=HEADS)
