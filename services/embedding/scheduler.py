"""Works of one model on its workers: the urgent before the patient, each done once for all who wait for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import Context
from typing import Final, Generic, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry

from services.embedding.figures import ModelFigures
from services.embedding.lanes import Lane, Work
from services.embedding.ports import Tokens
from services.mesh import traces
from services.mesh.admission import PLANNED
from services.mesh.errors import Overloaded, TooManyRequests

# Batches of urgent works in a row after which one of patient ones runs, so that no load of queries stops an import for
# good.
URGENT_BEFORE_PATIENT: Final = 16
# Characters tokenized at a time: about 10 ms, after which others have their turn.
_TOKENIZED_AT_ONCE: Final = 32_768
_RETRY_AFTER_S: Final = 1.0
# Weight of the last batch in what a token takes.
_TOOK_WEIGHT: Final = 0.1

R = TypeVar("R")


class Scheduler(Generic[R]):
    """Runs batches of works on a few workers.

    Works of the first lane overtake those of the last: whatever waits, at most one running batch per worker is ahead of
    them. A text that several calls want at a time is read once; a text nobody waits for any more is not read at all.

    Args:
        made: By the lane they wait in, what the model makes of each text of a batch, in order. One lane, or first the
            urgent and then the patient.
        model: `models/{model}`, for refusals.
        workers: Batches that run at a time.
        batch_tokens: Bound of a batch, padding included. Long texts gain nothing from company, short ones half.
        finished: Told of each work that the model is done with, whoever still waits for it.
        clock: Seconds, for what a batch takes.
    """

    def __init__(
        self,
        made: Mapping[Lane[R], Callable[[Sequence[Tokens]], Awaitable[Sequence[R]]]],
        *,
        model: str,
        workers: int,
        batch_tokens: int,
        finished: Callable[[Work[R]], None] = lambda work: None,
        registry: CollectorRegistry = REGISTRY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._made = made
        lanes = list(made)
        self._urgent, self._patient = lanes[0], lanes[-1]
        self._model = model
        self._batch_tokens = batch_tokens
        self._finished = finished
        self._figures = ModelFigures(model, lanes, registry)
        self._in_flight: dict[bytes, Work[R]] = {}
        self._workers = self._idle = workers
        self._clock = clock
        self._token_s = 0.0
        self._running: set[asyncio.Task[None]] = set()
        self._urgent_in_a_row = 0

    async def results(
        self, lane: Lane[R], tenant: str, tokens: Mapping[bytes, Tokens], *, within_s: float | None = None
    ) -> dict[bytes, R]:
        """What the model makes of each text, by its key; all or none.

        Everything up to the wait happens in one step of the event loop, so two calls never queue the same text.

        Args:
            within_s: When nobody waits for it any more; None where that is not known.

        Raises:
            TooManyRequests: Too many works wait in the lane already.
            Overloaded: By what the model took lately, those before leave too little of `within_s`.
        """
        works = self._enlist(lane, tenant, tokens, within_s)
        if not works:
            return {}
        try:
            await asyncio.wait([work.outcome for work in works], return_when=asyncio.FIRST_EXCEPTION)
            return {work.key: work.outcome.result() for work in works if work.outcome.done()}
        finally:
            for work in works:
                self._leave(work)

    def _enlist(
        self, lane: Lane[R], tenant: str, tokens: Mapping[bytes, Tokens], within_s: float | None
    ) -> list[Work[R]]:
        fresh = [key for key in tokens if key not in self._in_flight]
        if len(fresh) > lane.room:
            raise TooManyRequests(
                f"{self._model} has too many {lane.kind} waiting; try again shortly",
                retry_after_s=_RETRY_AFTER_S,
                subject=f"{self._model} queue of {lane.kind}",
            )
        if fresh and within_s is not None:
            self._check_time(lane, sum(len(tokens[key].ids) for key in fresh), within_s)
        for key in fresh:
            self._in_flight[key] = Work(key, tokens[key], tenant)
            lane.push(self._in_flight[key])
        works = [self._in_flight[key] for key in tokens]
        origin = traces.origin()
        for work in works:
            work.waiters += 1
            if origin is not None:
                work.origins.append(origin)
        self._dispatch()
        return works

    def _check_time(self, lane: Lane[R], own: int, within_s: float) -> None:
        """Where nothing waits there is nothing to refuse for: whatever it takes, it is begun."""
        before = lane.tokens + (self._urgent.tokens if lane is not self._urgent else 0)
        each_s = self._token_s / self._workers
        if before and (before + own) * each_s > PLANNED * within_s:
            raise Overloaded(
                f"{self._model} has more {lane.kind} waiting than it can read in time; try again later",
                retry_after_s=max(_RETRY_AFTER_S, before * each_s),
                model=self._model,
            )

    def _leave(self, work: Work[R]) -> None:
        work.waiters -= 1
        if not work.waiters and work.lane is not None:
            work.lane.remove(work)
            del self._in_flight[work.key]

    def _dispatch(self) -> None:
        while self._idle and (turn := self._next()):
            self._idle -= 1
            # It goes on with the works of other calls, and is a part of none.
            task = asyncio.create_task(self._run(turn), context=Context())
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    def _next(self) -> tuple[Lane[R], list[Work[R]]] | None:
        """The batch to run next, and where it waited; None where nothing waits.

        Idle workers share what waits: a second worker is worth more than a full batch.
        """
        first = self._urgent_in_a_row < URGENT_BEFORE_PATIENT or not self._patient
        lane = self._urgent if self._urgent and first else self._patient
        self._urgent_in_a_row = self._urgent_in_a_row + 1 if lane is self._urgent else 0
        batch = lane.take(self._batch_tokens, max_works=-(-len(lane) // max(1, self._idle)))
        return (lane, batch) if batch else None

    async def _run(self, turn: tuple[Lane[R], list[Work[R]]] | None) -> None:
        """Runs the batch, then whatever is next until nothing is."""
        try:
            while turn:
                await self._done(*turn)
                turn = self._next()
        finally:
            self._idle += 1

    async def _done(self, lane: Lane[R], batch: Sequence[Work[R]]) -> None:
        origins = [origin for work in batch for origin in work.origins]
        began_s = self._clock()
        try:
            part = traces.shared_part(f"batch {self._model}", origins, {"ragweave.batch.texts": len(batch)})
            with part, self._figures.batch(batch):
                outcomes = await self._made[lane]([work.tokens for work in batch])
        except Exception as error:
            for work in batch:
                del self._in_flight[work.key]
                work.outcome.set_exception(error)
                work.outcome.exception()  # seen, even if every caller has left
            return
        token_s = (self._clock() - began_s) / sum(len(work.tokens.ids) for work in batch)
        self._token_s += (token_s - self._token_s) * (_TOOK_WEIGHT if self._token_s else 1.0)
        for work, outcome in zip(batch, outcomes, strict=True):
            del self._in_flight[work.key]
            work.outcome.set_result(outcome)
            self._finished(work)


class Turns:
    """Has large calls tokenized a slice at a time and one call at a time, so that no query waits behind them."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def tokenized(
        self, texts: Sequence[str], tokenize: Callable[[Sequence[str]], Awaitable[list[Tokens]]]
    ) -> list[Tokens]:
        """The tokens of each text, in order."""
        tokens: list[Tokens] = []
        for part in _slices(texts):
            async with self._turn:
                tokens += await tokenize(part)
        return tokens


def _slices(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    """The texts in order, in parts of a bounded number of characters; a longer text is a part of its own."""
    start = length = 0
    for index, text in enumerate(texts):
        if index > start and length + len(text) > _TOKENIZED_AT_ONCE:
            yield texts[start:index]
            start, length = index, 0
        length += len(text)
    if start < len(texts):
        yield texts[start:]
