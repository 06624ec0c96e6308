"""What a process and its children take of the machine, as the kernel counts it (proc(5))."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
# Looks that are closer to each other tell the usage as it was: the kernel counts in hundredths of a second.
_SPAN_S: Final = 1.0


class Consumption:
    """Memory and processor time of this process and of all below it. A look takes some 0.1 ms a process."""

    def __init__(self, proc: Path = Path("/proc"), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._proc = proc
        self._clock = clock
        self._looked_s, self._taken_s, self._usage = clock(), self._cpu_s(), 0.0

    def memory_bytes(self) -> int:
        """Resident memory; 0 where the kernel does not tell."""
        return sum(self._resident(pid) for pid in self._family())

    def cpu_usage(self) -> float:
        """Cores in use between the last two looks a second apart; a child that ended takes its share along."""
        now_s = self._clock()
        if (passed_s := now_s - self._looked_s) >= _SPAN_S:
            taken_s = self._cpu_s()
            self._usage = max(0.0, (taken_s - self._taken_s) / passed_s)
            self._looked_s, self._taken_s = now_s, taken_s
        return self._usage

    def _cpu_s(self) -> float:
        return sum(self._processor_s(pid) for pid in self._family())

    def _family(self) -> Iterator[int]:
        """This process, its children, theirs."""
        found = [os.getpid()]
        for pid in found:
            yield pid
            for task in self._read(pid, "task"):
                found += [int(child) for child in self._read(pid, f"task/{task}/children")]

    def _read(self, pid: int, name: str) -> list[str]:
        """The words of a file, or the names in a folder; nothing of a process that has ended."""
        path = self._proc / str(pid) / name
        try:
            return os.listdir(path) if name == "task" else path.read_text().split()
        except OSError:
            return []

    def _resident(self, pid: int) -> int:
        words = self._read(pid, "statm")
        return int(words[1]) * _PAGE if len(words) > 1 else 0

    def _processor_s(self, pid: int) -> float:
        try:
            after_name = (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(after_name[11]) + int(after_name[12])) / _TICKS
