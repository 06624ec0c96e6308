"""What processes have taken of the processors and of memory, by the kernel's accounts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ragweave.local.supervisor import read_state
from tests.e2e.stack import Mesh
from tests.e2e.troubles import engines

_TICKS_A_S = os.sysconf("SC_CLK_TCK")


def used_s(pids: Sequence[int]) -> float:
    """Seconds of processor time that processes have used (proc(5)); none of those that have ended."""
    return sum(map(_used_s, pids))


def used_by_mesh_s(mesh: Mesh) -> Mapping[str, float]:
    """Seconds of processor time of each process of a mesh so far, by its name."""
    pids = {name: [int(each["pid"])] for name, each in read_state(mesh.layout)["processes"].items()}
    pids["envoy"] = [*pids["envoy"], *children(pids["envoy"][0])]
    pids["engine"] = engines(mesh)
    return {name: used_s(each) for name, each in pids.items()}


def children(pid: int) -> list[int]:
    """Pids of the processes that a process has started."""
    return [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]


def _used_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_S
