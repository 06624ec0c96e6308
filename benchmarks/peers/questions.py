"""A query log in which some questions come again and again."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from benchmarks.cache import zipf_log

_QUESTIONS: Final = 1000
_EXPONENT: Final = 1.0
_WORDS: Final = 6
_DRAWN_AT_ONCE: Final = 1000


@dataclass
class ZipfLog:
    """1,000 questions by Zipf's law: the one of rank r as often as 1 / r. A log goes on from round to round.

    Each contestant has questions of its own, drawn alike: what one has made a cache remember helps no other.
    """

    words: Sequence[str]
    seed: int
    _logs: dict[str, "_Log"] = field(default_factory=dict)

    def __call__(self, contestant: str, round_: int) -> Iterator[str]:
        if contestant not in self._logs:
            self._logs[contestant] = _Log(self.words, random.Random(f"{self.seed} {contestant}"))  # noqa: S311  (guards nothing)
        return self._logs[contestant]

    def asked(self, contestant: str) -> tuple[int, float]:
        """How long a contestant's log is so far, and which share of it repeats what was in it before."""
        log = self._logs[contestant]
        return log.length, 1 - len(log.seen) / log.length


class _Log(Iterator[str]):
    def __init__(self, words: Sequence[str], draw: random.Random) -> None:
        questions = [" ".join(draw.sample(words, _WORDS)) for _ in range(_QUESTIONS)]
        self._drawn = _endless(questions, draw)
        self.length, self.seen = 0, set[str]()

    def __next__(self) -> str:
        question = next(self._drawn)
        self.length += 1
        self.seen.add(question)
        return question


def _endless(questions: Sequence[str], draw: random.Random) -> Iterator[str]:
    while True:
        yield from zipf_log(questions, _DRAWN_AT_ONCE, _EXPONENT, draw)
