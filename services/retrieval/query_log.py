"""The query log: which questions are asked often, so that their answers can be made before they are asked again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from services.mesh.identity import Caller
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Question, Questions
from services.retrieval.results import Asked

_WRITTEN_EVERY_S: Final = 1.0
# Different questions between two writes; what comes above is not noted.
_WAITING: Final = 2000
# Longer ones, such as those that bring a vector, are hardly asked twice.
_LONGEST_BYTES: Final = 1024


@dataclass(slots=True)
class _Noted:
    """Somebody's question, and how often it came."""

    asked: Asked
    written: Callable[[], bytes]
    who: Caller
    count: int = 1


class QueryLog:
    """Notes questions and counts them for all replicas.

    Noting one costs its search next to nothing; the log is written once in a while, and whether it can be matters to
    nobody who searches.

    Args:
        questions: Where the log is; None keeps none.
    """

    def __init__(self, questions: Questions | None) -> None:
        self._questions = questions
        self._noted: dict[bytes, _Noted] = {}

    def note(self, asked: Asked, written: Callable[[], bytes], who: Caller) -> None:
        """Counts a question that was answered.

        Args:
            written: Gives the request as it is to be made again.
        """
        if self._questions is None:
            return
        noted = self._noted.get(asked.key)
        if noted is not None:
            noted.count += 1
        elif len(self._noted) < _WAITING:
            self._noted[asked.key] = _Noted(asked, written, who)

    async def run(self) -> None:
        """Writes the log until cancelled."""
        while True:
            await asyncio.sleep(_WRITTEN_EVERY_S)
            await self.write()

    async def write(self) -> None:
        """Writes what was noted so far."""
        noted, self._noted = self._noted, {}
        counts: dict[str, Counter[Question]] = {}
        for each in noted.values():
            request = each.written()
            if len(request) <= _LONGEST_BYTES:
                question = Question(request, each.asked.indexes, tuple(sorted(each.who.principals)))
                counts.setdefault(each.asked.tenant, Counter())[question] += each.count
        if counts and self._questions is not None:
            await self._questions.add(counts)

    async def most_asked(self, tenant: str, index: IndexId | None, limit: int) -> list[Question]:
        """The tenant's questions, or those that an index has part in, the most frequent first.

        Raises:
            DependencyUnavailable: The log does not answer.
        """
        if self._questions is None:
            return []
        await self.write()
        return await self._questions.most_asked(tenant, index, limit)

    async def drop(self, tenant: str, index: IndexId | None = None) -> int:
        """Drops the tenant's questions, or those that an index has part in; returns how many different ones.

        Raises:
            DependencyUnavailable: The log does not answer.
        """
        if self._questions is None:
            return 0
        await self.write()
        return await self._questions.drop(tenant, index)
