"""Chunks that nobody wrote, as many as are wanted, whose vectors lie and whose words occur as those of real ones do."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.mesh.filters import EVERYTHING, Filter, all_of, parse
from services.mesh.identity import Caller
from services.retrieval.chunks import Chunk, DocumentFields, EncodedChunk, VectorQuery
from services.retrieval.filterable import SCHEMA, visible_to
from services.retrieval.sparse import SparseEncoder, document_vector, encoder_for, scale_of

DIMENSION: Final = 384
CHUNKS_A_DOCUMENT: Final = 10

_TOPICS: Final = 2000
# Dimensions that texts differ in; in the others there is noise alone.
_LATENT: Final = 96
_NOISE: Final = 0.1
# Distances of a document from its topic's center, of a chunk from its document's, of a question from a document's, in
# units of what topics are apart; and what all texts have in common, as they have in every model's space.
_OF_DOCUMENT, _OF_CHUNK, _OF_QUESTION, _COMMON = 0.6, 0.6, 0.7, 0.4
_TOPIC_WORDS: Final = 40
# Of a text's words so many are its topic's own; the others are anybody's.
_OWN_SHARE: Final = 0.3
_WORDS: Final = (60, 180)
_WORDS_OF_TITLE: Final = 5
_WORDS_ASKED: Final = 5
_TEAMS: Final = 100
_ASKING: Final = Caller("default", "ann", principals=frozenset({"user:ann", "group:staff"}))

FILTERS: Final = {
    "none": EVERYTHING,
    "a quarter": parse('metadata.kind = "report"', SCHEMA),
    "one in 100": parse('metadata.team = "team-7"', SCHEMA),
}
"""What searches are narrowed by, besides what the caller may see, by what is left of it."""


@dataclass(frozen=True)
class Question:
    """Words, and the vector that a model would make of them: little-endian float32."""

    text: str
    vector: bytes


class Corpus:
    """Documents by number, and questions; the same whenever the seed is.

    A topic has a center, its documents lie around that, chunks around their document's, and questions around documents;
    the spread falls off from dimension to dimension as that of embeddings does. Topics are as large and words as
    frequent as Zipf's law has it.

    Args:
        vocabulary: How many words there are.
    """

    def __init__(self, seed: int = 0, vocabulary: int = 30_000) -> None:
        self._seed = seed
        made = np.random.default_rng(seed)
        spread = 1 / np.sqrt(np.arange(1, _LATENT + 1))
        self._spread = spread / np.linalg.norm(spread)
        self._turned = np.linalg.qr(made.standard_normal((DIMENSION, _LATENT)))[0].T
        self._common = self._near(1, made)[0] * _COMMON
        self._topics = self._near(_TOPICS, made)
        self._topic_sums = _zipf_sums(_TOPICS)
        self._encoder = encoder_for("en")
        self._words = _words(vocabulary, self._encoder, random.Random(seed))  # noqa: S311  (makes words)
        self._terms = [next(self._encoder.terms(word)).index for word in self._words]
        self._word_sums = _zipf_sums(vocabulary)
        self._own = made.integers(vocabulary // 100, vocabulary, (_TOPICS, _TOPIC_WORDS))
        self._scale = scale_of(sum(_WORDS) / 2 + _WORDS_OF_TITLE)

    def document(self, number: int) -> list[EncodedChunk]:
        """The chunks of a document."""
        made, topic, center = self._begun(number)
        title = self._drawn(topic, _WORDS_OF_TITLE, made)
        fields = DocumentFields(
            f"doc-{number}",
            title=self._text(title),
            source_uri=f"https://example.com/{topic}/{number}",
            mime_type="text/markdown",
            metadata={"kind": "report" if number % 4 == 0 else "note", "team": f"team-{number % _TEAMS}"},
            content_hash=f"{number:064x}",
            revision=1,
        )
        vectors = self._embedded(center + self._near(CHUNKS_A_DOCUMENT, made) * _OF_CHUNK, made)
        return [
            self._chunk(fields, ordinal, title, self._drawn(topic, int(made.integers(*_WORDS)), made), vector)
            for ordinal, vector in enumerate(vectors)
        ]

    def questions(self, count: int, documents: int) -> Iterator[Question]:
        """Questions about some of the first so many documents."""
        asked = np.random.default_rng((self._seed, 2))
        for _ in range(count):
            _, topic, center = self._begun(int(asked.integers(documents)))
            (vector,) = self._embedded(center + self._near(1, asked) * _OF_QUESTION, asked)
            yield Question(self._text(self._drawn(topic, _WORDS_ASKED, asked)), vector.tobytes())

    def queries(self, count: int, documents: int, narrowed: Filter = EVERYTHING) -> Iterator[VectorQuery]:
        """The same, as an index is asked them for somebody who may see what has no ACL."""
        chosen = all_of(narrowed, visible_to(_ASKING))
        for question in self.questions(count, documents):
            yield VectorQuery(question.vector, self._encoder.query(question.text), filter=chosen)

    def _begun(self, number: int) -> tuple[np.random.Generator, int, NDArray[np.float64]]:
        """What draws the rest of a document, its topic and its center."""
        made = np.random.default_rng((self._seed, 1, number))
        topic = int(np.searchsorted(self._topic_sums, made.random()))
        return made, topic, self._topics[topic] + self._near(1, made)[0] * _OF_DOCUMENT

    def _near(self, count: int, made: np.random.Generator) -> NDArray[np.float64]:
        return made.standard_normal((count, _LATENT)) * self._spread

    def _embedded(self, latent: NDArray[np.float64], made: np.random.Generator) -> NDArray[np.float32]:
        noise = made.standard_normal((len(latent), DIMENSION)) * (_NOISE / math.sqrt(DIMENSION))
        vectors = (latent + self._common) @ self._turned + noise
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), "<f4")

    def _drawn(self, topic: int, count: int, made: np.random.Generator) -> list[int]:
        """Words by their place in the vocabulary."""
        anybodys = np.searchsorted(self._word_sums, made.random(count))
        own = self._own[topic, made.integers(_TOPIC_WORDS, size=count)]
        drawn: list[int] = np.where(made.random(count) < _OWN_SHARE, own, anybodys).tolist()
        return drawn

    def _text(self, places: Sequence[int]) -> str:
        return " ".join([self._words[place] for place in places])

    def _chunk(
        self,
        fields: DocumentFields,
        ordinal: int,
        title: Sequence[int],
        places: Sequence[int],
        vector: NDArray[np.float32],
    ) -> EncodedChunk:
        counts = Counter([self._terms[place] for place in (*title, *places)])
        chunk = Chunk(
            fields, "r1", str(ordinal), ordinal, self._text(places), fields.title, token_count=2 * len(places)
        )
        sparse = document_vector(counts, self._scale)
        return EncodedChunk(chunk, vector.tobytes(), sparse, counts.total(), self._scale)


def _zipf_sums(count: int) -> NDArray[np.float64]:
    """What the odds of ranks 1 to `count` add up to."""
    odds = 1 / np.arange(1, count + 1)
    sums: NDArray[np.float64] = np.cumsum(odds) / odds.sum()
    return sums


def _words(count: int, encoder: SparseEncoder, draw: random.Random) -> list[str]:
    """Different words that are looked for; the first ones are the shortest, as frequent words are."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    made: dict[str, None] = {}
    while len(made) < count:
        word = "".join(draw.choices(syllables, k=2 + (len(made) > 1000) + (len(made) > 10_000)))
        if any(encoder.terms(word)):
            made[word] = None
    return list(made)
