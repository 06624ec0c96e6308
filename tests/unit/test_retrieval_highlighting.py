"""Highlights: which words of a passage are marked."""

import pytest

from services.retrieval.highlighting import MAX_HIGHLIGHTS, highlighted
from services.retrieval.masking import mask_of
from tests.retrieval_fakes import chunk, hit
from tests.retrieval_rig import Searching


def marked(text: str, query: str, language: str = "en") -> list[str]:
    (found,) = highlighted([hit(chunk(text), language=language)], query)
    assert all(first[1] <= second[0] for first, second in zip(found.highlights, found.highlights[1:], strict=False)), (
        "in order, and none over another"
    )
    return [text[start:end] for start, end in found.highlights]


@pytest.mark.parametrize(
    ("text", "query", "words"),
    [
        ("Foxes jumped; a FOX jumps.", "jumping fox", ["Foxes", "jumped", "FOX", "jumps"]),
        ("The fox and the hound", "the fox and", ["fox"]),
        ("foxglove, outfox, fox-like", "fox", ["fox"]),
        ("\U0001d523\U0001d52c\U0001d535 🦊🦊 fox", "fox", ["\U0001d523\U0001d52c\U0001d535", "fox"]),
        ("a🦊fox ﬁnds", "fox finds", ["fox", "ﬁnds"]),
        ("use max_tokens or C++ 3.11", "MAX_TOKENS c++ 3.11", ["max_tokens", "C++", "3.11"]),
        ("nothing of it", "fox", []),
        ("fix foz", "fox", []),
        ("fox", "", []),
        ("fox", "the and of", []),
        ("", "fox", []),
    ],
)
def test_words_with_the_stem_of_a_word_of_the_query_are_marked(text: str, query: str, words: list[str]) -> None:
    assert marked(text, query) == words


@pytest.mark.parametrize(
    ("language", "text", "query", "words"),
    [
        ("de", "Die Häuser am Fluss", "HAUS der Flüsse", ["Häuser", "Fluss"]),
        ("fr", "Les chevaux couraient", "le cheval courait", ["chevaux", "couraient"]),
        ("ru", "Кошки едят рыбу", "КОШКА", ["Кошки"]),
        ("zh", "我喜欢狐狸和狗", "狐狸", ["狐狸"]),
        ("ja", "東京都庁へ行く", "東京都", ["東京都"]),
        ("xx", "Words stand, word stands", "words", ["Words"]),
    ],
)
def test_each_language_has_its_own_stems(language: str, text: str, query: str, words: list[str]) -> None:
    assert marked(text, query, language) == words


def test_combining_marks_belong_to_their_word() -> None:
    text = "un cafe\u0301 noir"
    assert marked(text, "café", "fr") == ["cafe\u0301"]


def test_there_are_only_so_many() -> None:
    assert marked("fox " * 1500, "foxes") == ["fox"] * MAX_HIGHLIGHTS


async def test_words_masked_away_are_not_looked_for() -> None:
    searching = await Searching().holding()
    assert (await searching.search("foxes", highlight=True)).hits[0].highlights
    masked = await searching.search("foxes", highlight=True, mask=mask_of(["text"]))
    assert not any(found.highlights for found in masked.hits)
