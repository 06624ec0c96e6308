"""Ends processes that are there and do nothing, so that they are started again: those whose event loop stands still.

Each touches a file of its own every second (services/mesh/heartbeat.py). What counts is whether that changes from look
to look, never what time it says: a clock that jumps and a supervisor that was itself stopped end nobody.
"""

import asyncio
import contextlib
import os
import signal
from pathlib import Path

# Six looks in a row: longer than a machine under load, or a test that stops a process, keeps anything waiting.
LOOK_S = 5.0
LOOKS = 6
# For the traceback that a process writes on SIGABRT.
_LAST_WORDS_S = 2.0


async def end_when_hung(pid: int, file: Path, *, look_s: float = LOOK_S) -> None:
    """Returns once the process has been told to end, since its file stayed as it was. Runs until cancelled otherwise.

    One that has not touched its file yet, or has none, is never taken to hang.
    """
    await _unchanged(file, look_s)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGABRT)
        await asyncio.sleep(_LAST_WORDS_S)
        os.kill(pid, signal.SIGKILL)


async def _unchanged(file: Path, look_s: float) -> None:
    seen, times = None, 0
    while times < LOOKS:
        await asyncio.sleep(look_s)
        touched = _touched(file)
        times = times + 1 if touched is not None and touched == seen else 0
        seen = touched


def _touched(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None
