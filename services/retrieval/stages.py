"""What each stage of one search may take, what it took, and which had to be left out."""

import asyncio
import time
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, TypeVar

from services.mesh.calls import bounded
from services.mesh.errors import DeadlineExceeded, DependencyUnavailable, DomainError, ModelNotFound, TooManyRequests
from services.retrieval.figures import tell_left_out, tell_stages


class Share(NamedTuple):
    """What a stage may take of the time left when it begins, and whom it waits for."""

    of_time: float
    waits_for: str


SHARES: Final[Mapping[str, Share]] = {
    "authorize": Share(0.5, "the collections service"),
    "wait": Share(0.9, "the revision counter (Redis)"),
    "cache": Share(0.1, "the result cache (Redis)"),
    "revisions": Share(0.1, "the revision counter (Redis)"),
    "example": Share(0.5, "the index"),
    "embed": Share(0.5, "the embedding service"),
    "store": Share(0.7, "the index"),
    "rerank": Share(0.7, "the reranking model"),
    "neighbors": Share(0.7, "the index"),
    "facets": Share(0.9, "the index"),
}
"""The rest of the time is for the stages after it; the last ones leave some for the answer."""

UNABLE: Final = (DependencyUnavailable, DeadlineExceeded, TooManyRequests, ModelNotFound)
"""Why a stage may be left out: who does its work is away, late, busy, or lacks the model. Else the request is wrong."""

# Kept for building and sending the answer; of a short time, a tenth.
_ANSWER_S: Final = 0.050

# For a dependency that does not say when to try again.
_RETRY_S: Final = 1.0

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


@dataclass(frozen=True, slots=True)
class Ran:
    """How a stage ran, for whoever asks how an answer came about.

    Attributes:
        of: The model or the id of the collection that it ran on; empty: all.
        duration_s: None where it is a part of another stage, and not timed by itself.
        budget_s: What it might have taken; None without an end.
        candidates: What came out of it.
        detail: What it made of the request, or why it was left out.
    """

    stage: str
    of: str = ""
    duration_s: float | None = None
    budget_s: float | None = None
    candidates: int = 0
    detail: str = ""


class Stages:
    """The stages of one search.

    Args:
        timeout_s: What the caller's time leaves; None where it has no end.
        require_all: A stage that cannot run fails the search.
        explain: Notes how each stage ran.

    Attributes:
        timings_s: Seconds by stage.
        ran: In the order they ended; None where nobody asks.
    """

    def __init__(self, *, timeout_s: float | None = None, require_all: bool = False, explain: bool = False) -> None:
        self.timings_s: dict[str, float] = {}
        self.ran: list[Ran] | None = [] if explain else None
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

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Notes what the whole search takes, and tells metrics of its stages."""
        try:
            with self.timed("total"):
                yield
        finally:
            tell_stages(self.timings_s)

    async def within(self, stage: str, work: Awaitable[T], *, of: str = "") -> T:
        """The result of the work, which is given up once it has taken the stage's share of what is left.

        Calls that it makes to other services carry that bound, so that these stop then too.

        Args:
            stage: One of SHARES.
            of: The model or the id of the collection it works on, where there may be several.

        Raises:
            DeadlineExceeded: It took longer.
        """
        budget_s = self.budget_s(stage)
        if self.ran is None:
            return await _bounded(stage, work, budget_s)
        started_s = time.perf_counter()
        try:
            return await _bounded(stage, work, budget_s)
        finally:
            self.ran.append(Ran(stage, of, time.perf_counter() - started_s, budget_s))

    async def of_all(
        self, stage: str, works: Mapping[str, Awaitable[T]]
    ) -> tuple[dict[str, T], dict[str, DomainError]]:
        """The results of works that run at the same time, each within the stage's share, and why some have none.

        Args:
            works: By the model, or the id of the collection, that each is of.
        """
        done: Sequence[T | BaseException]
        if len(works) == 1:  # mostly: needs no task of its own
            ((of, work),) = works.items()
            try:
                done = [await self.within(stage, work, of=of)]
            except UNABLE as error:
                done = [error]
        else:
            running = (self.within(stage, work, of=of) for of, work in works.items())
            done = await asyncio.gather(*running, return_exceptions=True)
        results: dict[str, T] = {}
        failures: dict[str, DomainError] = {}
        for key, outcome in zip(works, done, strict=True):
            if isinstance(outcome, UNABLE):
                failures[key] = outcome
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                results[key] = outcome
        return results, failures

    async def of_collections(
        self, stage: str, works: Mapping[str, Awaitable[T]], *, needed: bool = True
    ) -> dict[str, T]:
        """The results by the collections' ids; the answer goes without those of several that could not be had.

        Args:
            needed: There is no answer without any of them.

        Raises:
            DependencyUnavailable, DeadlineExceeded: None could, or one could not and all stages are required.
        """
        results, failures = await self.of_all(stage, works)
        named = {each: _of_collection(stage, each, error) for each, error in failures.items()}
        if failures and not results and needed:
            raise _of_no_collection(stage, named)
        for each, error in named.items():
            self.left_out(stage, error, collection=each)
        return results

    def budget_s(self, stage: str) -> float | None:
        """Seconds that a stage may take if it begins now; None where the caller's time has no end."""
        remaining_s = self.remaining_s()
        return None if remaining_s is None else SHARES[stage].of_time * remaining_s

    def remaining_s(self) -> float | None:
        """Seconds until the answer has to be made, never negative; None without a deadline."""
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def noted(self, stage: str, candidates: int, *, of: str = "", detail: str = "") -> None:
        """Notes what came out of a stage that has run, and of what it was if that was not known, where anybody asks."""
        if self.ran is None:
            return
        for place, ran in reversed(list(enumerate(self.ran))):
            if ran.stage == stage and ran.of in ("", of):
                self.ran[place] = replace(ran, of=of, candidates=candidates, detail=detail)
                return
        self.ran.append(Ran(stage, of, self.timings_s.get(stage), candidates=candidates, detail=detail))

    def handed_over(self) -> Sequence[Ran]:
        """How the stages so far ran, which is forgotten here; nothing where nobody asks."""
        ran, self.ran = self.ran, None if self.ran is None else []
        return ran or ()

    def left_out(self, stage: str, error: DomainError, *, collection: str = "") -> None:
        """Notes that the answer goes without a stage.

        Raises:
            DomainError: The error itself, where all stages are required.
        """
        if self._require_all:
            raise error
        degraded = Degraded(stage, error.message, collection)
        if degraded not in self.degraded:  # a search that is deepened asks its stages again
            self.degraded.append(degraded)
            tell_left_out(stage)


async def _bounded(stage: str, work: Awaitable[T], budget_s: float | None) -> T:
    if budget_s is None:
        return await work
    try:
        with bounded(budget_s):
            async with asyncio.timeout(budget_s) as bound:
                return await work
    except TimeoutError:
        if not bound.expired():
            raise
        raise DeadlineExceeded(
            f"{SHARES[stage].waits_for} did not answer within {budget_s:.3g} s, which is what the deadline leaves "
            f"to stage {stage!r}; give the search more time",
            stage=stage,
        ) from None


def _of_collection(stage: str, collection: str, error: DomainError) -> DomainError:
    """The error of one collection; what is late stays late."""
    message = f"collection {collection!r}: {error.message}"
    if isinstance(error, DeadlineExceeded):
        return DeadlineExceeded(message, stage=stage, collection=collection)
    retry_after_s = error.retry_after_s or _RETRY_S
    return DependencyUnavailable(message, retry_after_s=retry_after_s, stage=stage, collection=collection)


def _of_no_collection(stage: str, errors: Mapping[str, DomainError]) -> DomainError:
    first, *others = errors.values()
    if not others:
        return first
    message = f"none of the collections {', '.join(map(repr, errors))} could be searched; {first.message}"
    if all(isinstance(each, DeadlineExceeded) for each in errors.values()):
        return DeadlineExceeded(message, stage=stage)
    return DependencyUnavailable(message, retry_after_s=_RETRY_S, stage=stage)
