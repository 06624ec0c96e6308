"""The words a text is searched by, and what they weigh."""

import math
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from services.retrieval.sparse import (
    SparseEncoder,
    average_at,
    document_vector,
    drifted,
    encoder_for,
    scale_of,
)
from services.retrieval.stopwords import STOP_WORDS


def words(text: str, language: str = "en") -> list[str]:
    """The words of a text that count, as they stand in it."""
    return [text[term.start : term.end] for term in SparseEncoder(language).terms(text)]


def same(one: str, other: str, language: str = "en") -> bool:
    encoder = SparseEncoder(language)
    return [term.index for term in encoder.terms(one)] == [term.index for term in encoder.terms(other)] != []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("object.__exit__(self, exc_type)", ["object", "__exit__", "self", "exc_type"]),
        ("Python 3.11 and 3.11.4, not 3", ["Python", "3.11", "3.11.4"]),
        ("C++, C# and F#; not a+b", ["C++", "C#", "F#"]),
        ("the manager's built-in", ["manager", "built"]),
        ("__ _ x 7", []),
        ("日本語のテスト", ["日本", "本語", "語の", "のテ", "テス", "スト"]),
        ("東", ["東"]),
        ("Python日本語", ["Python", "日本", "本語"]),
        ("cafe\u0301 नमस्ते", ["cafe\u0301", "नमस्ते"]),
        ("", []),
    ],
)
def test_words_are_found_where_they_stand(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("one", "other", "language"),
    [
        ("running", "Runs", "en"),
        ("cafe\u0301", "CAFÉ", "en"),
        ("ﬁne", "fine", "en"),
        ("Häuser", "häuser", "de"),
        ("chats", "chat", "fr"),
        ("книги", "книга", "ru"),
    ],
)
def test_forms_of_a_word_are_one_term(one: str, other: str, language: str) -> None:
    assert same(one, other, language)


def test_identifiers_are_not_stemmed() -> None:
    assert not same("default_factories", "default_factory")


def test_stop_words_are_of_the_language() -> None:
    assert words("the house and das Haus", "en") == ["house", "das", "Haus"]
    assert words("the house und das Haus", "de") == ["the", "house", "Haus"]
    assert words("the house", "xx") == ["the", "house"]


@pytest.mark.parametrize("language", STOP_WORDS)
def test_every_language_with_stop_words_has_a_stemmer(language: str) -> None:
    assert not words(" ".join(STOP_WORDS[language]), language)
    assert SparseEncoder(language)._stemmer is not None


def test_terms_are_the_same_in_every_process() -> None:
    assert encoder_for("en").query("fox").indices == (2346563809,)


def test_a_querys_terms_weigh_as_often_as_they_occur() -> None:
    vector = encoder_for("en").query("fox dog foxes")
    assert sorted(vector.values) == [1.0, 2.0]
    assert list(vector.indices) == sorted(vector.indices)


def test_weights_are_those_of_bm25() -> None:
    counts = encoder_for("en").counts("fox fox dog cat")
    scale = scale_of(10.0)
    vector = document_vector(counts, scale)
    norm = 1.2 * (1 - 0.75 + 0.75 * 4 / average_at(scale))
    assert sorted(vector.values) == pytest.approx(sorted([2.2 * 2 / (2 + norm), 2.2 / (1 + norm), 2.2 / (1 + norm)]))


@pytest.mark.parametrize("average", [1.0, 1.3, 17.0, 250.0, 8000.0])
def test_a_scale_is_within_one_percent_of_the_average(average: float) -> None:
    assert average_at(scale_of(average)) == pytest.approx(average, rel=0.0101)


def test_an_average_drifts_at_two_percent() -> None:
    scale = scale_of(100.0)
    exact = average_at(scale)
    assert not drifted(scale, exact * 1.019) and not drifted(scale, exact / 1.019)
    assert drifted(scale, exact * 1.021) and drifted(scale, exact / 1.021)
    assert not drifted(0, 0.0)
    assert math.isclose(average_at(0), 1.0)


def test_texts_encoded_in_several_threads_at_once_have_the_terms_they_have_alone() -> None:
    endings = ["ing", "ed", "ation", "ness", "ly", "ment", "ors", "able", "ive", "ful"]
    text = " ".join("".join(parts) for parts in product(endings, repeat=3))
    alone, shared, every_s = SparseEncoder("en").counts(text), SparseEncoder("en"), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # a thread is interrupted within a word
    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(shared.counts, [text] * 4)) == [alone] * 4
    finally:
        sys.setswitchinterval(every_s)
