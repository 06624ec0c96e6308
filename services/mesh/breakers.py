"""Circuit breakers: a dependency that keeps failing is left alone for a while, and its callers are told at once."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import Context, ContextVar
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from functools import cache
from types import TracebackType
from typing import Final, Self, TypeAlias
from weakref import WeakSet

import grpc
import structlog
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from services.mesh.calls import bound_s, current_call
from services.mesh.errors import DependencyUnavailable, DomainError
from services.mesh.settings import MeshSettings

# The cheapest question to a dependency; raises where it is not answered.
Look: TypeAlias = Callable[[], Awaitable[object]]
_LOOK_TIMEOUT_S: Final = 1.0
# A probe that is silent for so long, such as a stream with nothing to tell, keeps others no longer from probing.
_PROBE_S: Final = 2.0
# Looks become no rarer after this many probes that failed.
_MOST_DOUBLED: Final = 10


class Verdict(Enum):
    """What an error tells of a dependency."""

    ANSWER = auto()
    FAILURE = auto()
    LATE = auto()  # its caller's deadline passed: a failure where it had its time


Judge: TypeAlias = Callable[[Exception], Verdict]


def failing(*kinds: type[Exception]) -> Judge:
    """Errors of these kinds are failures, others answers."""
    return lambda error: Verdict.FAILURE if isinstance(error, kinds) else Verdict.ANSWER


# What most dependencies that cannot be reached, or do not answer in the time set for them, are met with.
_UNREACHED: Final = failing(OSError, TimeoutError)


class State(StrEnum):
    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"


_GAUGE: Final = {State.CLOSED: 0, State.HALF_OPEN: 1, State.OPEN: 2}


@dataclass(frozen=True, slots=True)
class Limits:
    """When breakers open and close.

    Attributes:
        failures: Consecutive failures that open one.
        open_s: Seconds until one call may probe.
        slow_s: What a dependency had at least where a deadline that passes counts against it.
        look_s: Seconds between two looks whether an open one may be probed early; 0 for never.
    """

    failures: int = 5
    open_s: float = 30.0
    slow_s: float = 0.25
    look_s: float = 1.0

    @classmethod
    def of(cls, settings: MeshSettings) -> Self:
        return cls(settings.breaker_failures, settings.breaker_open_s, settings.breaker_slow_s, settings.breaker_look_s)


@cache
def _families(registry: CollectorRegistry) -> tuple[Gauge, Counter, Counter]:
    """State, how often it opened, and what it refused; made once for a registry, since a name may be taken once."""
    labels = ["dependency"]
    return (
        Gauge("ragweave_breaker_state", "0 closed, 1 half-open, 2 open.", labels, registry=registry),
        Counter("ragweave_breaker_opened", "Times it opened.", labels, registry=registry),
        Counter("ragweave_breaker_refusals", "Questions not asked.", labels, registry=registry),
    )


class Breaker:
    """What one dependency of this process is asked through.

    It opens after `Limits.failures` consecutive failures: questions are refused at once with DependencyUnavailable.
    After `open_s`, or as soon as it answers a look, it is half-open: one question is let through, and its answer closes
    the breaker, its failure opens it again. A probe that is given up leaves the next question to probe.

    Only failures of the dependency count: what the judge of a question says is one, and deadlines that passed after it
    had `slow_s` to answer. Other errors are answers; a cancelled question is neither.

    Attributes:
        dependency: What logs, metrics and callers know it by.
        failures: Consecutive ones.
        opened_at: Unix time at which it opened last; None while closed.
        last_error: The latest failure: its type, and what it says where that holds no secrets.
    """

    def __init__(
        self,
        dependency: str,
        limits: Limits = Limits(),
        *,
        clock: Callable[[], float] = time.monotonic,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.dependency = dependency
        self.limits = limits
        self.failures = 0
        self.opened_at: float | None = None
        self.last_error = ""
        self._clock = clock
        self._due_s = 0.0
        self._opened_in_a_row = 0
        # Answers count for the era they were asked in: what was asked before it opened says nothing about the probe.
        self._era = 0
        self._probe: Question | None = None
        self._looks: list[Look] = []
        self._looking: asyncio.Task[None] | None = None
        self._parts: WeakSet[Breaker] = WeakSet()
        self._registry = registry
        _, opened, refusals = _families(registry)
        self._opened, self._refusals = opened.labels(dependency), refusals.labels(dependency)
        self._log = structlog.get_logger("mesh.breakers")

    @property
    def state(self) -> State:
        if self.opened_at is None:
            return State.CLOSED
        return State.HALF_OPEN if self._probe is not None or self._clock() >= self._due_s else State.OPEN

    @property
    def retry_after_s(self) -> float:
        """Seconds until a question may be let through; 0 while one is."""
        return 0.0 if self.opened_at is None else max(0.0, self._due_s - self._clock())

    def asking(self, judge: Judge = _UNREACHED) -> "Question":
        """The right to ask once: a block to ask in, or a question to settle.

        Raises:
            DependencyUnavailable: The breaker is open, or half-open with its one probe under way.
        """
        if self.opened_at is not None:
            now_s = self._clock()
            if now_s < self._due_s or (self._probe is not None and now_s < self._probe.asked_s + _PROBE_S):
                self._refusals.inc()
                raise self._refusal()
            self._probe = question = Question(self, self._era, judge, now_s)
            self._log.info("breaker half-open", dependency=self.dependency)
            return question
        return Question(self, self._era, judge, self._clock())

    def aside(self) -> "Question":
        """A question asked whatever the state, of which the breaker learns nothing."""
        return Question(self, -1, _UNREACHED, self._clock())

    @asynccontextmanager
    async def looking(self, look: Look) -> AsyncIterator[None]:
        """While the breaker is open inside the block, `look` asks every now and then whether a probe is worth it."""
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)
            for each in (self, *self._parts):
                if (looking := each._looking) is not None:
                    looking.cancel()
                    await asyncio.wait({looking})

    def part(self, look: Look) -> "Breaker":
        """One for a part of the dependency that may fail alone; it looks by `look` inside the blocks of `looking`."""
        made = Breaker(self.dependency, self.limits, clock=self._clock, registry=self._registry)
        made._looks.append(look)
        self._parts.add(made)
        return made

    def _refusal(self) -> DependencyUnavailable:
        return DependencyUnavailable(
            f"{self.dependency} is unavailable",
            retry_after_s=max(self.retry_after_s, self.limits.look_s),
            service=self.dependency,
        )

    def _answered(self, question: "Question") -> None:
        if question.era != self._era:
            return
        self.failures = 0
        if self.opened_at is not None:
            open_s = time.time() - self.opened_at
            self.opened_at, self._probe, self._opened_in_a_row = None, None, 0
            self._era += 1
            self._log.info("breaker closed", dependency=self.dependency, open_s=round(open_s, 3))

    def _failed(self, question: "Question", error: BaseException) -> None:
        if question.era != self._era:
            return
        self.failures += 1
        self.last_error = _told(error)
        if self.opened_at is None and self.failures < self.limits.failures:
            return
        self._probe = None
        self._era += 1
        self._opened_in_a_row += 1
        self._due_s = self._clock() + self.limits.open_s
        if self.opened_at is None:
            self.opened_at = time.time()
        self._opened.inc()
        self._log.warning(
            "breaker open",
            dependency=self.dependency,
            failures=self.failures,
            error=self.last_error,
            open_s=self.limits.open_s,
        )
        if self._looking is not None:
            self._looking.cancel()
        if self._looks and self.limits.look_s:
            # In a context of its own: it belongs to no call, and is not bounded by one.
            self._looking = asyncio.get_running_loop().create_task(self._look(), context=Context())

    def _late(self, question: "Question", error: BaseException) -> None:
        if self._clock() - question.asked_s >= self.limits.slow_s:
            self._failed(question, error)
        else:
            self._given_up(question)

    def _given_up(self, question: "Question") -> None:
        if self._probe is question:
            self._probe = None

    async def _look(self) -> None:
        """Until a look is answered or a probe is due anyway; the more rarely, the more probes have failed since."""
        doubled = min(self._opened_in_a_row - 1, _MOST_DOUBLED)
        pause_s = min(self.limits.open_s, self.limits.look_s * 2**doubled)
        while self._looks and self.state is State.OPEN:
            await asyncio.sleep(pause_s)
            with suppress(Exception):
                async with asyncio.timeout(_LOOK_TIMEOUT_S):
                    await self._looks[-1]()
                self._due_s = min(self._due_s, self._clock())


class Question:
    """One question to a dependency; how its block ends is what the breaker learns, once.

    Attributes:
        era: Of its breaker, when it was asked.
        asked_s: When, by its breaker's clock.
    """

    __slots__ = ("_breaker", "_judge", "asked_s", "era")

    def __init__(self, breaker: Breaker, era: int, judge: Judge, asked_s: float) -> None:
        self.era = era
        self.asked_s = asked_s
        self._breaker = breaker
        self._judge = judge

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.settle(error)

    def settle(self, error: BaseException | None = None) -> None:
        """Without an error it was answered."""
        if error is None:
            self._breaker._answered(self)
        elif isinstance(error, Exception):
            match self._judge(error):
                case Verdict.ANSWER:
                    self._breaker._answered(self)
                case Verdict.FAILURE:
                    self._breaker._failed(self, error)
                case Verdict.LATE:
                    self._breaker._late(self, error)
        elif isinstance(error, asyncio.CancelledError) and _deadline_passed():
            self._breaker._late(self, error)
        else:
            self._breaker._given_up(self)


class Breakers:
    """The breakers of one process, by dependency."""

    def __init__(self, limits: Limits, registry: CollectorRegistry = REGISTRY) -> None:
        self._limits = limits
        self._registry = registry
        self._made: dict[str, Breaker] = {}

    def of(self, dependency: str) -> Breaker:
        """The one breaker of a dependency; made where it is asked for first."""
        if (known := self._made.get(dependency)) is not None:
            return known
        made = self._made[dependency] = Breaker(dependency, self._limits, registry=self._registry)
        _families(self._registry)[0].labels(dependency).set_function(lambda: _GAUGE[made.state])
        return made

    def all(self) -> tuple[Breaker, ...]:
        return tuple(self._made.values())

    @contextmanager
    def wiring(self) -> Iterator[None]:
        """What is opened inside the block asks through these breakers."""
        token = _wired.set(self)
        try:
            yield
        finally:
            _wired.reset(token)

    def forget(self) -> None:
        for dependency in self._made:
            with suppress(KeyError):  # another process's part in this one, as in a test, has the same
                _families(self._registry)[0].remove(dependency)


_wired: ContextVar[Breakers | None] = ContextVar("breakers", default=None)
_running: list[Breakers] = []


@contextmanager
def protecting(settings: MeshSettings) -> Iterator[Breakers]:
    """The breakers of a process, which `breakers` lists inside the block; `serve` does this."""
    made = Breakers(Limits.of(settings))
    _running.append(made)
    try:
        yield made
    finally:
        _running.remove(made)
        made.forget()


def breakers() -> tuple[Breaker, ...]:
    """All of this process."""
    return tuple(each for running in _running for each in running.all())


def breaker_of(dependency: str) -> Breaker:
    """The breaker of a dependency of the process being wired; one that nobody shares where none is, as in a test."""
    wired = _wired.get()
    return Breaker(dependency) if wired is None else wired.of(dependency)


def _deadline_passed() -> bool:
    call = current_call()
    return bound_s() == 0 or (call is not None and call.remaining_s() == 0)


def _told(error: BaseException) -> str:
    """What may be shown of an error: a driver's own words may hold addresses and passwords."""
    name = type(error).__name__
    match error:
        case DomainError():
            return f"{name}: {error.message}"
        case grpc.aio.AioRpcError():
            return f"{name}: {error.code().name}"
        case OSError(errno=int(number)):
            return f"{name}: {os.strerror(number)}"
    return name
