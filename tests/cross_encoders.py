"""Tiny cross-encoders: folders as sentence-transformers and Optimum export them, of scores known in advance."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

CLS, SEP, UNKNOWN = 1, 2, 3
_SPECIALS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")


def write_cross_encoder(
    folder: Path,
    words: Iterable[str],
    *,
    classes: int = 1,
    typed: bool = True,
    max_tokens: int = 32,
    below: str = "",
    nan: bool = False,
    inputs: Mapping[str, str] | None = None,
) -> Path:
    """A model whose logit is how many tokens of the text are words of the query, less a hundredth of its length.

    Args:
        words: What the tokenizer knows.
        classes: Columns of its answer; with two, the second is the logit and the first 0.
        typed: Whether it takes token_type_ids; without them its logit is minus the length of query and text.
        below: Folder in the folder for the graph.
        nan: Gives what is not a number, whatever it reads.
        inputs: Other names of its inputs.
    """
    (folder / below).mkdir(parents=True, exist_ok=True)
    vocabulary = {word: at for at, word in enumerate((*_SPECIALS, *dict.fromkeys(words)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    # As exported: a reader that keeps to these would not see how long a text is.
    tokenizer.enable_truncation(max_length=8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"model_type": "bert", "max_position_embeddings": max_tokens, "pad_token_id": 0}
    (folder / "config.json").write_text(json.dumps(config))
    graph = _graph(classes, typed, nan)
    for each in (*graph.graph.input, *graph.graph.node):
        _rename(each, inputs or {})
    onnx.save(graph, folder / below / "model.onnx")
    return folder


def _rename(part: Any, names: Mapping[str, str]) -> None:
    if isinstance(part, onnx.ValueInfoProto):
        part.name = names.get(part.name, part.name)
        return
    renamed = [names.get(each, each) for each in part.input]
    del part.input[:]
    part.input.extend(renamed)


def _graph(classes: int, typed: bool, nan: bool) -> onnx.ModelProto:
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if typed else [])]
    nodes = [*(_overlap() if typed else _length()), *_answer(classes, nan)]
    graph = helper.make_graph(
        nodes,
        "overlap",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in names],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [
            _constant("separator", TensorProto.INT64, [SEP]),
            _constant("one", TensorProto.INT64, [1]),
            _constant("zero", TensorProto.INT64, [0]),
            _constant("last", TensorProto.INT64, [-1]),
            _constant("middle", TensorProto.INT64, [1]),
            _constant("hundredth", TensorProto.FLOAT, [0.01]),
            _constant("nothing", TensorProto.FLOAT, [0.0]),
        ],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def _overlap() -> list[Any]:
    """overlap [batch, 1]: tokens of the text that stand in the query too, less a hundredth of the text's tokens."""
    node = helper.make_node
    return [
        # Words: neither padding nor special. [CLS] is no word either, but of type 0 only, so that it matches nothing.
        node("Cast", ["attention_mask"], ["real"], to=TensorProto.BOOL),
        node("Equal", ["input_ids", "separator"], ["is_separator"]),
        node("Not", ["is_separator"], ["no_separator"]),
        node("And", ["real", "no_separator"], ["word"]),
        node("Equal", ["token_type_ids", "zero"], ["type_0"]),
        node("Equal", ["token_type_ids", "one"], ["type_1"]),
        node("And", ["word", "type_0"], ["of_query"]),
        node("And", ["word", "type_1"], ["of_text"]),
        node("Unsqueeze", ["input_ids", "last"], ["ids_down"]),
        node("Unsqueeze", ["input_ids", "middle"], ["ids_across"]),
        node("Equal", ["ids_down", "ids_across"], ["same"]),
        node("Unsqueeze", ["of_text", "last"], ["text_down"]),
        node("Unsqueeze", ["of_query", "middle"], ["query_across"]),
        node("And", ["text_down", "query_across"], ["crossing"]),
        node("And", ["same", "crossing"], ["matching"]),
        node("Cast", ["matching"], ["matches"], to=TensorProto.FLOAT),
        node("ReduceMax", ["matches"], ["matched"], axes=[2], keepdims=0),
        node("ReduceSum", ["matched", "one"], ["count"], keepdims=1),
        node("Cast", ["of_text"], ["text_tokens"], to=TensorProto.FLOAT),
        node("ReduceSum", ["text_tokens", "one"], ["length"], keepdims=1),
        node("Mul", ["length", "hundredth"], ["penalty"]),
        node("Sub", ["count", "penalty"], ["logit"]),
    ]


def _length() -> list[Any]:
    node = helper.make_node
    return [
        node("Mul", ["input_ids", "attention_mask"], ["read"]),
        node("Cast", ["attention_mask"], ["tokens"], to=TensorProto.FLOAT),
        node("ReduceSum", ["tokens", "one"], ["length"], keepdims=1),
        node("Neg", ["length"], ["logit"]),
    ]


def _answer(classes: int, nan: bool) -> Sequence[Any]:
    node = helper.make_node
    zeros = [node("Mul", ["logit", "nothing"], ["zeros"])]
    told = (
        [*zeros, node("Div", ["zeros", "zeros"], ["told"])] if nan else [*zeros, node("Identity", ["logit"], ["told"])]
    )
    return [
        *told,
        node("Concat", ["told"] if classes == 1 else ["zeros"] * (classes - 1) + ["told"], ["logits"], axis=1),
    ]


def _constant(name: str, kind: int, values: Sequence[float]) -> Any:
    return helper.make_tensor(name, kind, [len(values)], values)
