"""A sign of life for who watches a process from outside: a file that its event loop touches every second.

A loop that stands still touches nothing, whatever the process serves; and a file needs neither port nor certificate.
`python -m services.mesh.heartbeat FILE` ends with 0 where the file was touched of late, for container health checks.
"""

import asyncio
import faulthandler
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

BEAT_S: Final = 1.0
# How long a loop may stand still: longer than a machine under load keeps anything waiting.
SILENT_S: Final = 30.0


@asynccontextmanager
async def beating(file: Path | None, *, beat_s: float = BEAT_S) -> AsyncIterator[None]:
    """Touches the file inside the block, where one is given. On SIGABRT, by which a process that hangs is ended, the
    tracebacks of all its threads go to stderr.
    """
    if file is None:
        yield
        return
    faulthandler.enable()
    _touch(file)
    beat = asyncio.create_task(_beat(file, beat_s))
    try:
        yield
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat


async def _beat(file: Path, beat_s: float) -> None:
    while True:
        _touch(file)
        await asyncio.sleep(beat_s)


def _touch(file: Path) -> None:
    with suppress(OSError):  # a full disk is no reason to end, and the folder may be gone with its mesh
        file.touch()


def is_beating(file: Path, *, silent_s: float = SILENT_S) -> bool:
    """Whether the file was touched of late, by the machine's clock."""
    try:
        return abs(time.time() - file.stat().st_mtime) < silent_s
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_beating(Path(sys.argv[1])) else f"{sys.argv[1]} was not touched for {SILENT_S:.0f} s")
