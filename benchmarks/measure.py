"""Contestants that are asked in turns, round by round in one run, and what came of each."""

import asyncio
import itertools
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Final, Protocol

Ask = Callable[[str], Awaitable[bytes]]
"""Asks one question for one caller: its answer, as it came. Raises Refused where there is none, or not a right one."""
Questions = Callable[[str, int], Iterator[str]]
"""What is asked of a contestant, named, in a round; all its callers draw from it, and end where it does."""


_FIRST_TRIES: Final = 5


class Refused(Exception):
    """A question was not answered as it should be; says what came instead."""


@dataclass
class Taken:
    """What came of one load.

    Attributes:
        ms: Of each question that was answered, also of those asked in time and answered after.
        in_time: How many were answered while the load went on.
        errors: How many were not answered; `error` is the first one.
    """

    seconds: float
    ms: list[float] = field(default_factory=list)
    in_time: int = 0
    errors: int = 0
    error: str = ""

    def note(self, began_s: float, until_s: float) -> None:
        """Counts an answer that came just now."""
        now_s = time.perf_counter()
        self.ms.append((now_s - began_s) * 1e3)
        self.in_time += now_s <= until_s

    def failed(self, why: object) -> None:
        self.error = self.error or str(why)[:300]
        self.errors += 1


class Contestant(Protocol):
    """Somebody who answers questions."""

    @property
    def name(self) -> str: ...

    async def load(self, callers: int, seconds: float, questions: Iterator[str]) -> Taken:
        """So many callers at a time, each asking again once it is answered; what they opened is closed in the end."""
        ...

    def processor_s(self) -> Mapping[str, float]:
        """Processor time so far of each process that answers, by its name."""
        ...


def no_processes() -> Mapping[str, float]:
    """For a contestant of whose processes nothing is known."""
    return {}


@dataclass(frozen=True)
class Calling:
    """A contestant that is called over the wire.

    Attributes:
        opening: What the callers ask through, one each, open inside the block.
        processor_s: As Contestant says.
    """

    name: str
    opening: Callable[[int], AbstractAsyncContextManager[Sequence[Ask]]]
    processor_s: Callable[[], Mapping[str, float]] = no_processes

    async def load(self, callers: int, seconds: float, questions: Iterator[str]) -> Taken:
        async with self.opening(callers) as asks:
            # What connects, wakes up and fills caches at a first question is no part of the load.
            await asyncio.gather(*(_first(ask, questions) for ask in asks))
            until_s, taken = time.perf_counter() + seconds, Taken(seconds)

            async def caller(ask: Ask) -> None:
                for question in questions:
                    if (began_s := time.perf_counter()) >= until_s:
                        return
                    try:
                        await ask(question)
                    except Refused as error:
                        taken.failed(error)
                    else:
                        taken.note(began_s, until_s)

            await asyncio.gather(*map(caller, asks))
            return taken


async def _first(ask: Ask, questions: Iterator[str]) -> None:
    for left in reversed(range(_FIRST_TRIES)):
        try:
            await ask(next(questions))
            return
        except Refused as error:
            if not left:
                raise RuntimeError(f"not even the first questions are answered: {error}") from None


@dataclass(frozen=True)
class Working:
    """A contestant that works in this process, one thread a caller."""

    name: str
    ask: Callable[[str], object]
    processor_s: Callable[[], Mapping[str, float]] = no_processes

    async def load(self, callers: int, seconds: float, questions: Iterator[str]) -> Taken:
        return await asyncio.to_thread(self._load, callers, seconds, questions)

    def _load(self, callers: int, seconds: float, questions: Iterator[str]) -> Taken:
        self.ask(next(questions))
        until_s, drawing = time.perf_counter() + seconds, threading.Lock()
        each = [Taken(seconds) for _ in range(callers)]

        def caller(taken: Taken) -> None:
            while (began_s := time.perf_counter()) < until_s:
                with drawing:
                    question = next(questions, None)
                if question is None:
                    return
                self.ask(question)
                taken.note(began_s, until_s)

        threads = [threading.Thread(target=caller, args=(taken,)) for taken in each[1:]]
        for thread in threads:
            thread.start()
        caller(each[0])
        for thread in threads:
            thread.join()
        return Taken(seconds, [ms for taken in each for ms in taken.ms], sum(taken.in_time for taken in each))


@dataclass(frozen=True)
class Sample:
    """What one contestant did in one round.

    Attributes:
        cpu_us: Processor time an answer took, by process; `load` is who asks.
    """

    per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    answers: int
    errors: int
    error: str = ""
    cpu_us: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """The rounds of one measure.

    Attributes:
        name: Short, unique in its suite: a table and a plot are called by it.
        against: By contestant, the one that it is held to; of those that are held to none, nothing.
        samples: By contestant, a sample a round, in the order of the rounds.
    """

    name: str
    callers: int
    seconds: float
    against: Mapping[str, str]
    samples: Mapping[str, Sequence[Sample]]

    def figures(self, contestant: str, figure: str) -> list[float]:
        """One of a Sample's figures, round by round."""
        return [getattr(each, figure) for each in self.samples[contestant]]

    def median(self, contestant: str, figure: str) -> float:
        """Of a figure, over the rounds."""
        return statistics.median(self.figures(contestant, figure))

    def spread(self, contestant: str, figure: str) -> tuple[float, float]:
        """The least and the most of a figure."""
        all_ = self.figures(contestant, figure)
        return min(all_), max(all_)

    def ratios(self, contestant: str, figure: str, against: str = "") -> list[float]:
        """A contestant's figure over that of the one it is held to, or of another, round by round."""
        its = self.figures(against or self.against[contestant], figure)
        return [mine / other for mine, other in zip(self.figures(contestant, figure), its, strict=True)]

    def ratio(self, contestant: str, figure: str, against: str = "") -> float:
        """The median of the ratios."""
        return statistics.median(self.ratios(contestant, figure, against))

    def more(self, contestant: str, figure: str, against: str = "") -> float:
        """The median of what a contestant's figure is more, round by round."""
        its = self.figures(against or self.against[contestant], figure)
        mine = self.figures(contestant, figure)
        return statistics.median(one - other for one, other in zip(mine, its, strict=True))

    def errors(self, contestant: str) -> int:
        """Of all rounds."""
        return sum(each.errors for each in self.samples[contestant])


def repeated(question: str) -> Questions:
    """The same question all the time."""
    return lambda contestant, round_: itertools.repeat(question)


def never_repeated(words: Sequence[str], seed: int, length: int = 6) -> Questions:
    """Questions of words drawn at random, others for each contestant and round."""

    def questions(contestant: str, round_: int) -> Iterator[str]:
        draw = random.Random(f"{seed} {contestant} {round_}")  # noqa: S311  (picks words, guards nothing)
        while True:
            yield " ".join(draw.sample(words, length))

    return questions


def told(line: str) -> None:
    """To who looks on, at once."""
    print(line, flush=True)


async def measure(
    name: str,
    contestants: Sequence[Contestant],
    questions: Questions,
    *,
    callers: int,
    rounds: int,
    seconds: float,
    against: Mapping[str, str],
    tell: Callable[[str], object] = told,
) -> Measured:
    """Loads the contestants in turns, in another order each round, and tells how each round went.

    Raises:
        RuntimeError: A contestant does not answer even the first question of a round, or none in the time of one.
    """
    samples: dict[str, list[Sample]] = {each.name: [] for each in contestants}
    for round_ in range(1, rounds + 1):
        for contestant in random.sample(contestants, len(contestants)):
            asked = questions(contestant.name, round_)
            samples[contestant.name].append(await _sample(contestant, callers, seconds, asked))
        said = ", ".join(f"{each} {of[-1].per_s:,.0f}/s p50 {of[-1].p50_ms:.2f} ms" for each, of in samples.items())
        tell(f"{name}, round {round_} of {rounds}: {said}")
    return Measured(name, callers, seconds, against, samples)


async def _sample(contestant: Contestant, callers: int, seconds: float, questions: Iterator[str]) -> Sample:
    before = {**contestant.processor_s(), "load": time.process_time()}
    taken = await contestant.load(callers, seconds, questions)
    after = {**contestant.processor_s(), "load": time.process_time()}
    if not taken.in_time:
        raise RuntimeError(f"{contestant.name} answered nothing within {seconds:g} s: {taken.error or 'it is slower'}")
    used_us = {each: (now_s - before.get(each, 0.0)) / len(taken.ms) * 1e6 for each, now_s in after.items()}
    return Sample(
        per_s=taken.in_time / taken.seconds,
        p50_ms=percentile(taken.ms, 50),
        p95_ms=percentile(taken.ms, 95),
        p99_ms=percentile(taken.ms, 99),
        answers=len(taken.ms),
        errors=taken.errors,
        error=taken.error,
        cpu_us={each: round(us, 1) for each, us in used_us.items()},
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """One of the percentiles of some values, of which there is at least one."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]
