"""What each stage of one search may take, what it took, and which had to be left out."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from services.mesh.calls import bounded
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable, DomainError, ModelNotFound, TooManyRequests

SHARES: Final[Mapping[str, float]] = {
    "authorize": 0.5,
    "cache": 0.1,
    "embed": 0.5,
    "store": 0.7,
    "rerank": 0.7,
    "mmr": 0.5,
    "facets": 0.5,
    "neighbors": 0.7,
}
"""What a stage that waits for others may take of the time left when it begins; the rest is for those after it."""

UNABLE: Final = (DependencyUnavailable, DeadlineExceeded, TooManyRequests, ModelNotFound)
"""Why a stage may be left out: who does its work is away, late, busy, or lacks the model. Else the request is wrong."""

# Kept for building and sending the answer; of a short time, a tenth.
_ANSWER_S: Final = 0.050

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Degraded:
    """A stage that was left out, and why.

    Attributes:
        collection: Its id, where the stage is left out for one of several.
    """

    stage: str
    reason: str
    collection: str = ""


class Stages:
    """The stages of one search.

    Args:
        timeout_s: What the caller's time leaves; None where it has no end.
        require_all: A stage that cannot run fails the search.

    Attributes:
        timings_s: Seconds by stage.
    """

    def __init__(self, *, timeout_s: float | None = None, require_all: bool = False) -> None:
        self.timings_s: dict[str, float] = {}
        self.degraded: list[Degraded] = []
        self._require_all = require_all
        self._until_s = (
            None if timeout_s is None else time.monotonic() + timeout_s - min(_ANSWER_S, max(0.0, timeout_s) / 10)
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Notes what the block takes."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[stage] = time.perf_counter() - started_s

    async def within(self, stage: str, work: Awaitable[T], *, collection: str = "") -> T:
        """The result of the work, which is given up once it has taken the stage's share of what is left.

        Calls that it makes to other services carry that bound, so that these stop then too.

        Args:
            stage: One of SHARES.
            collection: Its id, where the stage works on one of several.

        Raises:
            DeadlineExceeded: It took longer.
        """
        budget_s = self.budget_s(stage)
        if budget_s is None:
            return await work
        try:
            with bounded(budget_s):
                async with asyncio.timeout(budget_s) as bound:
                    return await work
        except TimeoutError:
            if not bound.expired():
                raise
            raise DeadlineExceeded(_late(stage, collection, budget_s), stage=stage, collection=collection) from None

    def budget_s(self, stage: str) -> float | None:
        """Seconds that a stage may take if it begins now; None where the caller's time has no end."""
        remaining_s = self.remaining_s()
        return None if remaining_s is None else SHARES[stage] * remaining_s

    def remaining_s(self) -> float | None:
        """Seconds until the answer has to be made, never negative; None without a deadline."""
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def left_out(self, stage: str, error: DomainError, *, collection: str = "") -> None:
        """Notes that the answer goes without a stage.

        Raises:
            DomainError: The error itself, where all stages are required.
        """
        if self._require_all:
            raise error
        self.degraded.append(Degraded(stage, error.message, collection))


def _late(stage: str, collection: str, budget_s: float) -> str:
    of = f" of collection {collection!r}" if collection else ""
    return f"{stage}{of} did not end within {budget_s:.3g} s, its share of the time left; give the search more time"
