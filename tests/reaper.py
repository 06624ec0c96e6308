"""Ends what a test run left running, however it ended: `python tests/reaper.py PID MASTER MARK FOLDER`.

It waits until the run's process PID has ended, or MASTER, for whom that works; then it kills whatever has MARK in its
environment, or works in the folder: some overwrite their environment to show a title. A mesh restarts its processes, so
it looks until it finds none.
"""

import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

_LOOK_S = 0.1


def main(pid: int, master: int, mark: str, folder: Path) -> None:
    with suppress(ProcessLookupError):
        run = os.pidfd_open(pid)
        with suppress(ProcessLookupError):
            select.select([run, os.pidfd_open(master)], [], [])
        signal.pidfd_send_signal(run, signal.SIGKILL)
    while left := left_running(mark, folder):
        for each in left:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        time.sleep(_LOOK_S)


def left_running(mark: str, folder: Path) -> list[int]:
    """Pids of the run's processes, less this one's; zombies are none."""
    processes = [each for each in Path("/proc").glob("[0-9]*") if int(each.name) != os.getpid()]
    return [int(each.name) for each in processes if _is_of_the_run(each, mark, folder)]


def _is_of_the_run(process: Path, mark: str, folder: Path) -> bool:
    with suppress(OSError):
        if mark.encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        return (process / "cwd").readlink().is_relative_to(folder)
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
