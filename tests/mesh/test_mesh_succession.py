"""A service that takes another's place: it begins when that one has ended, and what that one had begun is answered."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ragweave.local.supervisor import start_ticks
from services.mesh.succession import may_begin


@asynccontextmanager
async def sleeper() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import signal; signal.pause()")
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_waits_for_the_end_of_its_predecessor() -> None:
    async with sleeper() as process:
        waiting = asyncio.create_task(may_begin(f"{process.pid}:{start_ticks(process.pid)}", asyncio.Event()))
        while not waiting_for(process.pid):
            await asyncio.sleep(0.01)
        assert not waiting.done()
        os.kill(process.pid, signal.SIGKILL)
        assert await waiting


async def test_it_does_not_begin_where_it_is_told_to_stop_first() -> None:
    async with sleeper() as process:
        stopped = asyncio.Event()
        waiting = asyncio.create_task(may_begin(f"{process.pid}:{start_ticks(process.pid)}", stopped))
        await asyncio.sleep(0)
        stopped.set()
        assert not await waiting


@pytest.mark.parametrize(
    "predecessor", ["", "{pid}:1", "4194305:7"], ids=["none", "another of that pid", "no such pid"]
)
async def test_it_waits_for_no_other(predecessor: str) -> None:
    async with sleeper() as process:
        assert await may_begin(predecessor.format(pid=process.pid), asyncio.Event())


def waiting_for(pid: int) -> bool:
    """Whether this process holds a pidfd of that one."""
    wanted = f"Pid:\t{pid}\n"
    for name in os.listdir("/proc/self/fdinfo"):
        try:
            with open(f"/proc/self/fdinfo/{name}") as info:
                if wanted in info.read():
                    return True
        except OSError:
            continue
    return False
