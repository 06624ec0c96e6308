"""A process that takes another's place: it is ready to begin as soon as that one has ended.

Where others serve meanwhile, the predecessor is told to end (SIGTERM) and says NOT_SERVING first. Where nobody does,
its successor listens on the same port before it tells the predecessor to go (GO): connections wait in its backlog, so
that callers find nobody gone.
"""

import asyncio
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

# Tells a process that its successor listens already: nobody is to be turned away.
GO: Final = signal.SIGUSR1


def tell_to_go(predecessor: str) -> None:
    """Sends GO to a process, as `may_begin` names it; to nobody where it has ended."""
    pid, _, began = predecessor.partition(":")
    if pid and _began(int(pid)) == began:
        with suppress(ProcessLookupError):
            os.kill(int(pid), GO)


async def may_begin(predecessor: str, stopped: asyncio.Event) -> bool:
    """Waits until a process has ended, child or not; False where this one is told to stop before that.

    Args:
        predecessor: Its pid and the kernel's start time of it, "4711:123456", so that a pid given anew is not waited
            for; "" for none.
    """
    pid, _, began = predecessor.partition(":")
    if not pid:
        return True
    try:
        descriptor = os.pidfd_open(int(pid))
    except ProcessLookupError:
        return True
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    try:
        if _began(int(pid)) != began:
            return True
        structlog.get_logger("mesh").info("waiting for its predecessor to end", predecessor=int(pid))
        waits = [asyncio.create_task(each.wait()) for each in (ended, stopped)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()
        return ended.is_set()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _began(pid: int) -> str:
    """The kernel's start time of a process in clock ticks since boot (proc(5), stat field 22); "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""
