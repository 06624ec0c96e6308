"""The sparse encoder: words of a text as BM25 weights by term, the same for every store.

Words are runs of letters, digits and underscores, so identifiers such as `__exit__` and `max_tokens` stay whole and
dotted names come apart. Numbers joined by dots are one word (`3.11`), so are `C++`, `C#` and their like. Each is
brought to NFKC and lower case. Runs of Chinese, Japanese or Korean script, which has no spaces, become overlapping
pairs of characters. Left out: single characters of other scripts, bare underscores, stop words. What is all letters is
stemmed (Snowball).

A term's index is 32 bits of its BLAKE2b: no vocabulary to keep, and at 100,000 terms a pair in 10^9 collides.
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Final, Protocol

import snowballstemmer  # type: ignore[import-untyped]

from services.retrieval.chunks import SparseVector
from services.retrieval.stopwords import STOP_WORDS

K1: Final = 1.2
B: Final = 0.75

# Averages are kept to this precision: weights made for one that is 2 % off rank the same for all that matters.
_SCALE_STEP: Final = 1.02

_ALGORITHMS: Final = {
    "ar": "arabic",
    "cs": "czech",
    "da": "danish",
    "de": "german",
    "el": "greek",
    "en": "english",
    "eo": "esperanto",
    "es": "spanish",
    "et": "estonian",
    "eu": "basque",
    "fa": "persian",
    "fi": "finnish",
    "fr": "french",
    "ga": "irish",
    "hi": "hindi",
    "hu": "hungarian",
    "hy": "armenian",
    "id": "indonesian",
    "it": "italian",
    "lt": "lithuanian",
    "ne": "nepali",
    "nl": "dutch",
    "no": "norwegian",
    "pl": "polish",
    "pt": "portuguese",
    "ro": "romanian",
    "ru": "russian",
    "sr": "serbian",
    "sv": "swedish",
    "ta": "tamil",
    "tr": "turkish",
    "yi": "yiddish",
}
"""ISO 639-1 codes with a stemmer; a text of any other language is searched by its words as they stand."""

# Combining marks belong to the letter before them; Python's \w leaves them out.
_MARKS = "\u0300-\u036f\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff"
_WORD = re.compile(rf"(?<!\w)[A-Za-z](?:\+\+|#)(?!\w)|\d+(?:\.\d+)+(?!\w)|[\w{_MARKS}]+")
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff]+")


class Stemmer(Protocol):
    def stemWord(self, word: str) -> str: ...  # Snowball's own name


@dataclass(frozen=True, slots=True)
class Term:
    """A term and where its word stands in the text, in code points."""

    index: int
    start: int
    end: int


class SparseEncoder:
    """Encodes texts of one language.

    Args:
        language: ISO 639-1 code; selects stemmer and stop words, none where it is not known.
    """

    def __init__(self, language: str) -> None:
        self._stop_words = STOP_WORDS.get(language, frozenset())
        algorithm = _ALGORITHMS.get(language)
        self._stemmer: Stemmer | None = snowballstemmer.stemmer(algorithm) if algorithm else None
        self._stemming = Lock()
        self._index = lru_cache(maxsize=65_536)(self._index_of)

    def terms(self, text: str) -> Iterator[Term]:
        """The terms of a text in order, with their places."""
        for match in _WORD.finditer(text):
            word, start = match[0], match.start()
            if word.isascii():
                yield from self._term(word.lower(), start, match.end())
            else:
                yield from self._foreign(word, start)

    def stems(self, text: str) -> list[str]:
        """The words behind the terms of a text, in order, as they are looked for."""
        return [self._stem(_normal(text[term.start : term.end])) for term in self.terms(text)]

    def counts(self, text: str) -> Counter[int]:
        """How often each term occurs; the total is the text's length for BM25."""
        return Counter(term.index for term in self.terms(text))

    def query(self, text: str) -> SparseVector:
        """A query's terms, each weighing as often as it occurs; IDF is the store's part."""
        return _vector({index: float(count) for index, count in self.counts(text).items()})

    def _term(self, word: str, start: int, end: int) -> Iterator[Term]:
        index = self._index(word)
        if index is not None:
            yield Term(index, start, end)

    def _foreign(self, word: str, start: int) -> Iterator[Term]:
        last = 0
        for run in _CJK.finditer(word):
            yield from self._plain(word[last : run.start()], start + last)
            size = min(2, len(run[0]))
            for at in range(run.start(), run.end() - size + 1):
                yield from self._term(_normal(word[at : at + size]), start + at, start + at + size)
            last = run.end()
        yield from self._plain(word[last:], start + last)

    def _plain(self, word: str, start: int) -> Iterator[Term]:
        if word:
            yield from self._term(_normal(word), start, start + len(word))

    def _index_of(self, word: str) -> int | None:
        if word in self._stop_words or not word.strip("_") or (len(word) == 1 and not _CJK.match(word)):
            return None
        return int.from_bytes(hashlib.blake2b(self._stem(word).encode(), digest_size=4).digest(), "little")

    def _stem(self, word: str) -> str:
        if self._stemmer is None or not word.isalpha():
            return word
        with self._stemming:  # a stemmer keeps the word it is at in itself; writes are encoded in threads
            return self._stemmer.stemWord(word)


@lru_cache(maxsize=64)
def encoder_for(language: str) -> SparseEncoder:
    """The encoder of a language; one each, so that its stems are found once."""
    return SparseEncoder(language)


def document_vector(counts: Counter[int], scale: int) -> SparseVector:
    """BM25 term weights: tf (k1 + 1) / (tf + k1 (1 - b + b length / average)) (Robertson and Zaragoza, 2009, 3.4).

    Args:
        scale: The average length, as average_at reads it.
    """
    norm = K1 * (1 - B + B * counts.total() / average_at(scale))
    return _vector({index: count * (K1 + 1) / (count + norm) for index, count in counts.items()})


def scale_of(average: float) -> int:
    """The scale nearest to an average length of at least 1."""
    return round(_exact_scale(average))


def average_at(scale: int) -> float:
    """The average length a scale stands for."""
    return float(_SCALE_STEP**scale)


def drifted(scale: int, average: float) -> bool:
    """The average has left the scale by more than 2 %: half a step further than where the next one begins."""
    return abs(_exact_scale(average) - scale) > 1


def _exact_scale(average: float) -> float:
    return math.log(max(1.0, average)) / math.log(_SCALE_STEP)


def _normal(word: str) -> str:
    return unicodedata.normalize("NFKC", word).lower()


def _vector(weights: dict[int, float]) -> SparseVector:
    indices = sorted(weights)
    return SparseVector(tuple(indices), tuple(weights[index] for index in indices))
