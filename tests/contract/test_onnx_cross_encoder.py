"""Folders of cross-encoders as they are exported: what is read of them, and what is said of one that does not fit."""

import json
from pathlib import Path

import pytest

from services.embedding.adapters.onnx_cross_encoder import ModelFolderUnusable, OnnxCrossEncoder
from services.embedding.reranker import LocalReranker, rerank
from services.mesh.errors import DependencyUnavailable, TextTooLong
from tests.cross_encoders import CLS, SEP, write_cross_encoder

WORDS = ["who", "eats", "fish", "the", "cat", "dog", "sleeps", "sofa"]


async def test_two_classes_score_as_the_one_logit_does(tmp_path: Path) -> None:
    texts = ["the cat eats fish", "the dog sleeps"]
    found = []
    for classes in (1, 2):
        folder = write_cross_encoder(tmp_path / str(classes), WORDS, classes=classes)
        async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
            found.append(await encoder.score(await encoder.tokenize("who eats fish", texts)))
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx([0.8765, 0.4925], abs=0.0001)


async def test_scores_of_large_logits_differ_still(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path, WORDS, max_tokens=512)
    async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
        fewer, more = await encoder.score(await encoder.tokenize("fish", ["fish " * 20, "fish " * 24]))
    assert fewer < more <= 1


async def test_the_graph_may_be_in_a_folder_of_its_own_and_take_no_token_types(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path, WORDS, below="onnx", typed=False)
    async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
        ranking = await rerank(LocalReranker(encoder), "acme", "fish", ["the cat eats", "cat", "the cat"])
    assert [each.index for each in ranking.results] == [1, 2, 0]


async def test_the_text_is_cut_and_the_query_to_no_less_than_half(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path, WORDS, max_tokens=13)  # ten words and three special tokens
    async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
        for query, text, kept in ((3, 7, (3, 7)), (3, 9, (3, 7)), (9, 9, (5, 5)), (9, 2, (8, 2)), (12, 2, (8, 2))):
            (tokens,) = await encoder.tokenize("cat " * query, ["dog " * text])
            cat, dog = 8, 9
            assert list(tokens.ids) == [CLS, *[cat] * kept[0], SEP, *[dog] * kept[1], SEP]
            assert list(tokens.type_ids) == [0] * (kept[0] + 2) + [1] * (kept[1] + 1)
            assert tokens.count == query + text + 3


async def test_a_text_at_the_limit_is_not_called_cut(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path, WORDS, max_tokens=13)
    async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
        reranker = LocalReranker(encoder)
        ranking = await rerank(reranker, "acme", "who eats fish", ["cat " * 7, "cat " * 8])
        assert {each.index: each.score.truncated for each in ranking.results} == {0: False, 1: True}
        assert ranking.total_tokens == 26
        with pytest.raises(TextTooLong, match=r"documents\[1\]: has 14 tokens .* tiny takes 13"):
            await rerank(reranker, "acme", "who eats fish", ["cat " * 7, "cat " * 8], truncate=False)


@pytest.mark.parametrize(
    ("config", "tokenizer", "limit"),
    [
        ({"max_position_embeddings": 514, "model_type": "xlm-roberta"}, None, 512),
        ({"max_position_embeddings": 8192}, {"model_max_length": 512}, 512),
        ({"max_position_embeddings": 512}, {"model_max_length": 1e30}, 512),
        ({}, None, 512),
    ],
)
async def test_the_least_limit_told_holds(
    tmp_path: Path, config: dict[str, object], tokenizer: dict[str, object] | None, limit: int
) -> None:
    folder = write_cross_encoder(tmp_path, WORDS)
    (folder / "config.json").write_text(json.dumps(config))
    if tokenizer is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
        assert encoder.spec.max_tokens == limit


async def test_the_revision_changes_with_the_weights_and_with_the_tokenizer(tmp_path: Path) -> None:
    revisions = []
    for at, (words, classes) in enumerate(((WORDS, 1), (WORDS, 2), (WORDS[1:], 1), (WORDS, 1))):
        folder = write_cross_encoder(tmp_path / str(at), words, classes=classes)
        async with OnnxCrossEncoder.open("tiny", folder, workers=1) as encoder:
            revisions.append(encoder.spec.revision)
    assert len(set(revisions)) == 3
    assert revisions[0] == revisions[3]


async def test_a_score_that_is_no_number_is_not_passed_on(tmp_path: Path) -> None:
    async with OnnxCrossEncoder.open("tiny", write_cross_encoder(tmp_path, WORDS, nan=True), workers=1) as encoder:
        with pytest.raises(DependencyUnavailable, match="models/tiny gave a score that is not a finite number"):
            await rerank(LocalReranker(encoder), "acme", "fish", ["fish"])


@pytest.mark.parametrize("missing", ["model.onnx", "tokenizer.json", "config.json"])
async def test_what_is_missing_is_named(tmp_path: Path, missing: str) -> None:
    folder = write_cross_encoder(tmp_path, WORDS)
    (folder / missing).unlink()
    with pytest.raises(ModelFolderUnusable, match=missing):
        await _opened(folder)


@pytest.mark.parametrize("spoilt", ["model.onnx", "tokenizer.json", "config.json"])
async def test_what_is_spoilt_is_named(tmp_path: Path, spoilt: str) -> None:
    folder = write_cross_encoder(tmp_path, WORDS)
    (folder / spoilt).write_bytes(b"[1")
    with pytest.raises(ModelFolderUnusable, match=spoilt):
        await _opened(folder)


async def test_a_model_of_many_classes_is_none_for_reranking(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderUnusable, match="gives 3 numbers for a text"):
        await _opened(write_cross_encoder(tmp_path, WORDS, classes=3))


async def test_a_model_that_takes_something_else_is_none_for_reranking(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path, WORDS, inputs={"token_type_ids": "pixels"})
    with pytest.raises(ModelFolderUnusable, match=r"takes input_ids, attention_mask, pixels; a cross-encoder takes"):
        await _opened(folder)


async def _opened(folder: Path) -> None:
    async with OnnxCrossEncoder.open("tiny", folder, workers=1):
        pass
