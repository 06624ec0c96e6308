"""What the stages of one search took, and which had to be left out."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from services.mesh.errors import DomainError


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
        self._until_s = None if timeout_s is None else time.monotonic() + timeout_s

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Notes what the block takes."""
        started_s = time.perf_counter()
        try:
            yield
        finally:
            self.timings_s[stage] = time.perf_counter() - started_s

    def remaining_s(self) -> float | None:
        """Seconds until the caller's deadline, never negative; None without one."""
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    def left_out(self, stage: str, error: DomainError, *, collection: str = "") -> None:
        """Notes that the answer goes without a stage.

        Raises:
            DomainError: The error itself, where all stages are required.
        """
        if self._require_all:
            raise error
        self.degraded.append(Degraded(stage, error.message, collection))
