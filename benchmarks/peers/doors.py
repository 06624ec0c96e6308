"""How each contestant is asked: text in, the ten best hits out, each with its id, its text and its score."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import http1
from benchmarks.measure import Calling, Refused
from benchmarks.searching import opening

TOP: Final = 10


@dataclass(frozen=True)
class Hit:
    """A chunk that was found."""

    id: str
    text: str
    score: float


@dataclass(frozen=True)
class Door:
    """A contestant, and how its answers read.

    Attributes:
        hits: The hits of an answer, parsed.
    """

    contestant: Calling
    hits: Callable[[Any], list[Hit]]

    @property
    def name(self) -> str:
        return self.contestant.name

    async def ask(self, questions: Sequence[str]) -> list[tuple[int, list[Hit]]]:
        """Of each question the answer's length and the hits in it, all of it read.

        Raises:
            Refused: One is not answered.
        """
        async with self.contestant.opening(1) as [ask]:
            answers = [await ask(question) for question in questions]
        return [(len(answer), self.hits(json.loads(answer))) for answer in answers]

    async def is_open(self) -> bool:
        """Whether somebody answers there."""
        try:
            async with asyncio.timeout(5):
                await self.ask(["is anybody there"])
        except (Refused, TimeoutError):
            return False
        return True


def peer(name: str, port: int, path: str, result: Callable[[Any], Any] = lambda answer: answer) -> Door:
    """What stands in served/, as all of it is asked; `result` takes the list of hits from an answer."""

    def encoded(question: str) -> bytes:
        return http1.request(path, json.dumps({"query": question, "top_k": TOP}).encode())

    def whole(answer: bytes) -> None:
        if (found := answer.count(b'"text":')) != TOP:
            raise Refused(f"{found} hits: {answer[:300].decode(errors='replace')}")

    def hits(answer: Any) -> list[Hit]:
        return [Hit(each["id"], each["text"], each["score"]) for each in result(answer)]

    return Door(Calling(name, opening(lambda: http1.Connection(port), encoded, whole)), hits)
