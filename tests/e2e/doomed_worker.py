"""A worker that gets a signal at one of its side effects: `python -m tests.e2e.doomed_worker`.

    ... KILL 7                      dies after its seventh side effect
    ... STOP index.upsert           falls asleep right before its first of these

Side effects are named on standard output, one a line, before the signal where it comes before them.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count

from services.jobs.adapters.redis import Redis
from services.jobs.settings import WorkerSettings
from services.jobs.worker.__main__ import open_tools, worker
from services.mesh.serve import serve_worker
from services.mesh.settings import read
from tests.side_effects import stepping


@asynccontextmanager
async def wire(settings: WorkerSettings) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    number, where = signal.Signals[f"SIG{sys.argv[1]}"], sys.argv[2]
    numbers = count(1)
    fell = False

    async def before(effect: str) -> None:
        nonlocal fell
        if effect == where and not fell:
            fell = True
            print(effect, flush=True)
            os.kill(os.getpid(), number)

    async def after(effect: str) -> None:
        print(effect, flush=True)
        if where.isdecimal() and next(numbers) == int(where):
            os.kill(os.getpid(), number)

    async with (
        Redis.open(settings.mesh.redis_url, events=settings.events) as redis,
        open_tools(settings, redis) as tools,
    ):
        yield worker(settings, stepping(tools, before=before, after=after)).run


if __name__ == "__main__":
    asyncio.run(serve_worker("worker", wire, read(WorkerSettings)))
