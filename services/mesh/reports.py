"""What a process reports of itself: how it serves, what it needs of others, what it takes, and what waits in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.mesh.breakers import State as BreakerState


class State(StrEnum):
    """How well something serves; the contract's Health.State."""

    SERVING = "SERVING"
    DEGRADED = "DEGRADED"
    DOWN = "DOWN"


@dataclass(frozen=True, slots=True)
class BreakerReport:
    """A circuit breaker.

    Attributes:
        failures: In a row.
        last_error: Holds no secrets.
    """

    state: BreakerState
    failures: int = 0
    open_time: datetime | None = None
    last_error: str = ""

    @property
    def dependency_state(self) -> State:
        """How the dependency behind it is, as far as the breaker knows."""
        return {
            BreakerState.CLOSED: State.SERVING,
            BreakerState.HALF_OPEN: State.DEGRADED,
            BreakerState.OPEN: State.DOWN,
        }[self.state]


@dataclass(frozen=True, slots=True)
class DependencyReport:
    """Something a process needs of others.

    Attributes:
        required: Whether it takes no calls without.
        response_s: How long the last look took; None where it is never looked at.
        error: Why that failed; holds no secrets.
    """

    name: str
    state: State
    required: bool = False
    response_s: float | None = None
    error: str = ""
    breaker: BreakerReport | None = None


@dataclass(frozen=True, slots=True)
class QueueReport:
    """Work that waits.

    Attributes:
        depth: How much of it nobody works on.
        leased: How much of it workers hold.
        delayed: How much of it failed and is to be tried again later.
        oldest_s: How long the oldest of it is there; None where that is not known.
        late_leases: Leases that ran out, and that nobody has taken over.
        silence_s: The longest that the holder of one of these has been silent; None where there is none.
    """

    name: str
    depth: int
    leased: int = 0
    delayed: int = 0
    oldest_s: float | None = None
    late_leases: int = 0
    silence_s: float | None = None


@dataclass(frozen=True, slots=True)
class ProcessReport:
    """One process.

    Attributes:
        name: Its own among those of its service; never an address.
        error: Why it is not SERVING.
        response_s: How long the report took to get, or how old it is.
        cpu_usage: Cores in use, of late.
        loop_lag_s: The longest its event loop kept something waiting, of late.
    """

    name: str
    state: State
    error: str = ""
    version: str = ""
    commit: str = ""
    start_time: datetime | None = None
    uptime_s: float | None = None
    response_s: float | None = None
    memory_bytes: int = 0
    cpu_usage: float = 0.0
    loop_lag_s: float | None = None
    running_calls: int = 0
    dependencies: tuple[DependencyReport, ...] = ()
    queues: tuple[QueueReport, ...] = ()


def worst(dependencies: Iterable[DependencyReport]) -> tuple[State, str]:
    """How a process with these dependencies serves, and why it does not as it should."""
    bad = sorted((each for each in dependencies if each.state is not State.SERVING), key=lambda each: not each.required)
    if not bad:
        return State.SERVING, ""
    down = any(each.required and each.state is State.DOWN for each in bad)
    return State.DOWN if down else State.DEGRADED, "; ".join(f"{each.name}: {each.error or each.state}" for each in bad)
