"""The mesh that runs: processes that do not serve or keep dying, and what each of them says it lacks."""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path

from ragweave.findings import Finding, error, ok, warning
from ragweave.local.health import Standing
from ragweave.local.layout import Layout
from ragweave.v1.health_pb2 import Health

# Of a process that has started so often, and again so short a while ago, the next end is to be expected.
_OFTEN, _LATELY_S = 3, 120.0
# What a worker's lease lasts several times over: a lease that ran out is taken over by the next who looks.
_STUCK_S = 300.0
# Open files, of those a process may have.
_MANY = 0.8
_LINES = 400


def processes(here: Layout, standings: Iterable[Standing], now_s: float | None = None) -> Iterator[Finding]:
    """How the supervisor and gRPC's own health see them."""
    now_s = time.time() if now_s is None else now_s
    for each in standings:
        if each.restarts >= _OFTEN and now_s - each.started_at < _LATELY_S:
            last = f", last {each.last_exit}" if each.last_exit else ""
            said = _last_line(here.logs / f"{each.name}.log")
            yield error(
                f"{each.name} keeps ending: started {each.restarts + 1} times{last}",
                f"it serves in between at most; its log ends with: {said}" if said else "it serves in between at most",
                f"`ragweave logs {each.name}`",
            )
        elif not each.ready:
            why = "what it serves is refused" if each.pid else "what it serves is refused until it is started again"
            yield error(f"{each.name} is {each.state}", why, f"`ragweave logs {each.name}` tells what it waits for")
        else:
            yield ok(f"{each.name} is {each.state}")
        yield from files(each)


def files(standing: Standing, proc: Path = Path("/proc")) -> Iterator[Finding]:
    """Open files of a process."""
    try:
        limits = (proc / str(standing.pid) / "limits").read_text().splitlines()
        allowed = next(line.split()[3] for line in limits if line.startswith("Max open files"))
        used = sum(1 for _ in (proc / str(standing.pid) / "fd").iterdir())
    except (OSError, StopIteration):
        return
    if allowed.isdecimal() and used > _MANY * int(allowed):
        yield error(
            f"{standing.name} has {used} of {allowed} files open",
            "it refuses connections once they are used up",
            "`ulimit -n 65536` and `ragweave down && ragweave up`",
        )


def reported(health: Health) -> Iterator[Finding]:
    """What the processes say of themselves, beyond that they do not serve."""
    for service in health.services:
        for process in service.processes:
            if not process.HasField("uptime"):
                yield error(
                    f"{process.name} {process.error or 'does not answer'}",
                    "it hangs, or cannot be reached; one that hangs for half a minute is started again",
                    f"`ragweave logs {process.name}`",
                )
            for dependency in process.dependencies:
                yield from _needed(process.name, dependency)
            for queue in process.queues:
                yield from _stuck(queue)
    versions = {each.version for service in health.services for each in service.processes if each.version}
    if len(versions) > 1:
        yield warning(
            f"the processes run {len(versions)} versions: {', '.join(sorted(versions))}",
            "an upgrade has stopped half-way",
            "start those of the older version again",
        )


def _needed(process: str, dependency: Health.Dependency) -> Iterator[Finding]:
    breaker = dependency.breaker
    if breaker.state == Health.Breaker.OPEN:
        yield error(
            f"{process} leaves {dependency.name} alone: its breaker is open after {breaker.failures} failures",
            f"calls that need it are refused at once; the last failure: {breaker.last_error or 'not told'}",
            f"see to {dependency.name}; the breaker closes by itself once it answers",
        )
    elif dependency.state == Health.DOWN:
        found = error if dependency.required else warning
        why = "it takes no calls without" if dependency.required else "it goes on without, worse"
        what = f"{process} cannot reach {dependency.name}: {dependency.error or 'no word why'}"
        yield found(what, why, f"see to {dependency.name}; `ragweave health --all` shows who else lacks it")


def _stuck(queue: Health.Queue) -> Iterator[Finding]:
    silence_s = queue.longest_silence.ToMicroseconds() / 1e6
    if queue.late_leases and silence_s > _STUCK_S:
        yield error(
            f"{queue.late_leases} of the {queue.name} are held by a worker that has been silent for {silence_s:.0f} s",
            "nobody has taken them over, so no worker works",
            "`ragweave logs worker`, and `ragweave status` for whether one runs",
        )
    elif queue.depth and not queue.leased and queue.oldest_age.ToMicroseconds() / 1e6 > _STUCK_S:
        yield warning(
            f"{queue.depth} {queue.name} wait, the oldest for {queue.oldest_age.ToMicroseconds() / 6e7:.0f} min",
            "nobody works on any of them",
            "`ragweave status` tells whether a worker runs, `ragweave logs worker` what keeps it",
        )


def _last_line(path: Path) -> str:
    try:
        with path.open(errors="replace") as file:
            lines = [line.strip() for line in deque(file, 5) if line.strip()]
    except OSError:
        return ""
    return lines[-1][:_LINES] if lines else ""
