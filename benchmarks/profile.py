"""Where the processors' time goes under questions that never repeat: by process, and by function of Python ones."""

import asyncio
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.measure import Calling, Taken, never_repeated
from benchmarks.peers import corpus, ours
from benchmarks.peers.suite import CALLERS, chunk_count
from benchmarks.plan import Plan
from benchmarks.results import Outcome, Table
from benchmarks.rig import Rig
from ragweave.local.supervisor import read_state
from tests.e2e.troubles import engines

_PY_SPY: Final = Path(sys.executable).parent / "py-spy"
# Looks a second at each process, which is stopped for each.
_RATE: Final = 50
_WARM_S: Final = 2.0
# Least share of a process in all the time, and of a function in its process's, that are told of; and of a process that
# is looked into.
_LEAST: Final = 0.01
_LEAST_SPIED: Final = 0.04
_MOST: Final = 12
# Where a thread is found that has nothing to do; py-spy takes some of these for work. The last is gRPC's own poller.
_WAITING: Final = (
    "Condition.wait (threading.py)",
    ".select (selectors.py)",
    "_worker (concurrent/futures/thread.py)",
    "Thread.run (threading.py)",
)
_OURS: Final = ("(services/", "(ragweave/")
_ABOUT: Final = (
    "{callers} callers at a time ask ours, hybrid, by REST through the edge, what nobody has asked before, over the "
    "{chunks:,} chunks that peers are compared on; {per_s:,.0f} answers a second. First so for {seconds:g} s, of which "
    "the kernel tells what each process took; then again with py-spy at each Python process, {rate} looks a second, "
    "threads that wait left out. A function's share is of the looks that found the process at work in itself, not in "
    "what it calls in Python; native code, such as the model's, counts for the function that calls it. What gRPC's own "
    "threads do is in the first table only."
)


async def run(rig: Rig, plan: Plan) -> Outcome:
    """One load for the processes' shares, one for the functions'; no figures where py-spy is not installed."""
    if not _PY_SPY.exists():
        return Outcome("py-spy is not installed: `make bench` does that.")
    chunks, seconds = corpus.chunks(chunk_count(rig)), plan.rounds * plan.seconds
    asked = never_repeated(corpus.words(chunks), rig.seed)
    contestant = ours.doors(rig, chunks)[-1].contestant
    await contestant.load(CALLERS, _WARM_S, asked("warming", 0))
    taken, used_s = await _watched(rig, contestant, seconds, asked("processes", 0))
    busy = [name for name in _most_first(used_s) if used_s[name] >= _LEAST_SPIED * sum(used_s.values())]
    pids = {name: pid for name in busy if (pid := _python(rig, name))}
    files = {name: rig.folder / f"{name}.stacks" for name in pids}
    spies = [await _spying(pid, seconds, files[name]) for name, pid in pids.items()]
    await contestant.load(CALLERS, seconds, asked("functions", 0))
    await asyncio.gather(*(spy.wait() for spy in spies))
    about = _ABOUT.format(
        callers=CALLERS, chunks=len(chunks), per_s=taken.in_time / seconds, seconds=seconds, rate=_RATE
    )
    stacks = {name: file.read_text().splitlines() for name, file in files.items() if file.exists()}
    return Outcome(about, tables=[processes(used_s, seconds, len(taken.ms)), functions(stacks)])


def processes(used_s: Mapping[str, float], seconds: float, answers: int) -> Table:
    """How much of the processors each process took, the most first."""
    all_s = sum(used_s.values())
    rows = [
        [name, f"{used_s[name] / seconds:.2f}", f"{used_s[name] / all_s:.1%}", f"{used_s[name] / answers * 1e6:,.0f}"]
        for name in _most_first(used_s)
        if used_s[name] >= _LEAST * all_s
    ]
    return Table("Processes", ("process", "processors used", "of all that was used", "us an answer"), rows)


def _most_first(used_s: Mapping[str, float]) -> list[str]:
    return sorted(used_s, key=lambda name: -used_s[name])


def functions(stacks: Mapping[str, Sequence[str]]) -> Table:
    """What each process was found at, from py-spy's raw format: frames from the outermost on, and how often."""
    rows = []
    for process, lines in stacks.items():
        found: Counter[tuple[str, str]] = Counter()
        for line in lines:
            frames, _, times = line.rpartition(" ")
            if not frames.endswith(_WAITING):
                found[_at(frames.split(";"))] += int(times)
        rows += [
            [process, leaf, caller, f"{times / found.total():.1%}"]
            for (leaf, caller), times in found.most_common(_MOST)
            if times >= _LEAST * found.total()
        ]
    return Table("Functions", ("process", "at work in", "for our", "of the process's time"), rows)


def _at(frames: Sequence[str]) -> tuple[str, str]:
    """The innermost frame, and the innermost of ours that it works for."""
    by_us = [frame for frame in frames if any(each in frame for each in _OURS)]
    return frames[-1], by_us[-1] if by_us and by_us[-1] != frames[-1] else ""


async def _watched(
    rig: Rig, contestant: Calling, seconds: float, questions: Iterator[str]
) -> tuple[Taken, Mapping[str, float]]:
    """A load, and what each process used meanwhile; `load` is who asks."""
    before = {**rig.processor_s(), "load": time.process_time()}
    taken = await contestant.load(CALLERS, seconds, questions)
    after = {**rig.processor_s(), "load": time.process_time()}
    return taken, {name: used - before.get(name, 0.0) for name, used in after.items()}


async def _spying(pid: int, seconds: float, out: Path) -> Process:
    """py-spy at a process for so long."""
    options = ["--rate", str(_RATE), "--duration", str(round(seconds)), "--format", "raw", "--nolineno"]
    return await asyncio.create_subprocess_exec(
        _PY_SPY, "record", "--pid", str(pid), *options, "--output", out, stdout=DEVNULL, stderr=DEVNULL
    )


def _python(rig: Rig, name: str) -> int:
    """The pid of a Python process of the mesh; 0 for others. Of several engines the one that was begun last."""
    if name == "engine":
        return engines(rig.mesh)[-1]
    running = read_state(rig.mesh.layout)["processes"]
    return int(running[name]["pid"]) if name in running and name not in ("envoy", "redis") else 0
