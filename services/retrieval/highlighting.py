"""Highlights: which characters of a passage are words of the query."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Final

from services.retrieval.ranking import Hit
from services.retrieval.sparse import encoder_for

MAX_HIGHLIGHTS: Final = 1000
"""Of one passage."""


def highlighted(hits: Sequence[Hit], query: str) -> Iterator[Hit]:
    """The hits, one by one, with the places of the query's words in their texts.

    A word is found in any case, and in any form with the same stem.
    """
    languages = {hit.collection.language for hit in hits}
    terms = {language: frozenset(encoder_for(language).counts(query)) for language in languages}
    for hit in hits:
        yield replace(hit, highlights=tuple(islice(_spans(hit, terms[hit.collection.language]), MAX_HIGHLIGHTS)))


def _spans(hit: Hit, terms: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Start and end of each, in code points; what overlaps, as pairs of Chinese characters do, is one."""
    begun: tuple[int, int] | None = None
    for word in encoder_for(hit.collection.language).terms(hit.found.chunk.text):
        if word.index not in terms:
            continue
        if begun is not None and word.start < begun[1]:
            begun = begun[0], max(begun[1], word.end)
        else:
            if begun is not None:
                yield begun
            begun = word.start, word.end
    if begun is not None:
        yield begun
