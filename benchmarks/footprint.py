"""Start-up time and idle memory of a mesh that holds nothing."""

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.plan import Plan
from benchmarks.results import Bar, Outcome, Table
from benchmarks.rig import Rig
from ragweave.local.health import memory_bytes, standings
from ragweave.local.processes import processes
from tests.e2e.stack import Mesh

_SETTLE_S: Final = 10.0
_MOST_IDLE_MIB: Final = 800
_ABOUT: Final = (
    "Seconds from `ragweave up` to every process serving, with nothing imported; and, ten idle seconds after the last "
    "start, the memory of each process (PSS, so that what they share counts once)."
)


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Starts a mesh of its own once a round, and weighs it the last time."""
    mesh = Mesh(rig.folder / "footprint", **rig.settings())
    took_s: list[float] = []
    for round_ in range(1, plan.rounds + 1):
        began_s = time.perf_counter()
        await asyncio.to_thread(mesh.start)
        took_s.append(time.perf_counter() - began_s)
        try:
            if round_ == plan.rounds:
                await asyncio.sleep(_SETTLE_S)
                memory = memory_mib(mesh)
        finally:
            await asyncio.to_thread(mesh.stop)
    starts = Table("Start, in seconds", ["median", "each"], [_starts(took_s)])
    weighed = Table("Idle memory, in MiB", [*memory, "all"], [[*map(_whole, memory.values()), _whole(_all(memory))]])
    return Outcome(_ABOUT, bars=[bar(memory)], tables=[starts, weighed])


def memory_mib(mesh: Mesh) -> Mapping[str, float]:
    """What each process of a mesh takes, with all that it started."""
    return {
        each.name: memory_bytes(each.pid) / 2**20 for each in standings(mesh.layout, processes(mesh.layout)) if each.pid
    }


def bar(memory: Mapping[str, float]) -> Bar:
    """What is asked of an idle mesh, and what it came to."""
    all_ = _all(memory)
    return Bar(7, f"idle mesh under {_MOST_IDLE_MIB} MiB", f"{all_:.0f} MiB", all_ < _MOST_IDLE_MIB)


def _all(memory: Mapping[str, float]) -> float:
    return sum(memory.values())


def _whole(mib: float) -> str:
    return f"{mib:.0f}"


def _starts(took_s: Sequence[float]) -> list[str]:
    return [f"{statistics.median(took_s):.1f}", ", ".join(f"{each:.1f}" for each in took_s)]
