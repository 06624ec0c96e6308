"""Waits for what does not answer, instead of failing one document after the other on it."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from services.jobs.ports import Diagnose
from services.jobs.work import JobCancelled
from services.mesh.errors import LeaseLost

T = TypeVar("T")

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 2.0


class Patience:
    """Repeats calls, all of them harmless to repeat, while their service cannot be reached or is full.

    Args:
        limit_s: How long; then the last error is raised, and costs the item an attempt.
    """

    def __init__(self, diagnose: Diagnose, limit_s: float) -> None:
        self._diagnose = diagnose
        self._limit_s = limit_s
        self._log = structlog.get_logger("jobs.patience")

    async def __call__(self, call: Callable[[], Awaitable[T]]) -> T:
        now = asyncio.get_running_loop().time
        until = now() + self._limit_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await call()
            except (JobCancelled, LeaseLost):
                raise
            except Exception as error:
                failure = self._diagnose(error)
                if not failure.unreachable or now() > until:
                    raise
            if pause_s == _FIRST_PAUSE_S:
                self._log.info("waiting", reason=failure.reason, message=failure.message)
            await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311  (spreads workers, guards nothing)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
