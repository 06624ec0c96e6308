"""What ten times the load leaves of the peak: `python -m benchmarks.overload [--seconds N] [--times N]`.

One mesh with the demo's corpus. First the peak: so many callers at a time, each asking again once answered, the most
answers a second of several such loads. Then calls arrive at ten times that rate, whether the ones before have been
answered or not, each with a deadline of 2 s; goodput is what is answered within it. Right after it, 16 callers. All by
the edge over gRPC, words that were never asked before, the result cache passed by.

The load comes from a process of its own (benchmarks.h2_load), on the same cores: what it and the refusals take is not
there for answers. The table says what everybody took.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.h2_load import Plan, Result
from benchmarks.rig import Rig

DEADLINE_S: Final = 2.0
_CALLERS: Final = (8, 16, 32, 64)


def main() -> None:
    """Prints a table; exits with 1 where goodput is below the share of the peak that is asked for."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=15.0, help="of each load; of the overload twice that")
    arguments.add_argument("--times", type=float, default=10.0, help="the peak is offered so many times")
    arguments.add_argument("--least", type=float, default=0.8, help="share of the peak that must be answered in time")
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder, Rig(Path(folder)) as rig:
        share = _measured(rig, given)
    sys.exit(0 if share >= given.least else 1)


def _measured(rig: Rig, given: argparse.Namespace) -> float:
    """Goodput at the overload, as a share of the peak."""
    load(rig, seed=given.seed, seconds=2.0, callers=8)  # warms up
    peak = 0.0
    print(f"{'load':<22}offered/s  in time/s   whole  refused/s  p50 ms  p99 ms  refused in  processors used")
    for callers in _CALLERS:
        result = _told(rig, f"{callers} at a time", seed=given.seed + callers, seconds=given.seconds, callers=callers)
        peak = max(peak, result.in_time / result.seconds)
    over = _told(
        rig, f"{given.times:g} times the peak", seed=given.seed, seconds=2 * given.seconds, per_s=given.times * peak
    )
    _told(rig, "16 at a time, after", seed=given.seed + 1, seconds=given.seconds, callers=16)
    share = over.in_time / over.seconds / peak
    print(f"peak {peak:.0f}/s, goodput {over.in_time / over.seconds:.0f}/s: {share:.1%} of it")
    return share


def _told(rig: Rig, name: str, *, seed: int, seconds: float, callers: int = 0, per_s: float = 0.0) -> Result:
    before = rig.processor_s()
    result = load(rig, seed=seed, seconds=seconds, callers=callers, per_s=per_s)
    used = {each: now - before.get(each, 0.0) for each, now in rig.processor_s().items()}
    used = {"load": result.cpu_s, **used}
    shares = ", ".join(f"{each} {s / result.seconds:.2f}" for each, s in used.items() if s / result.seconds >= 0.01)
    print(
        f"{name:<22}{result.offered / result.seconds:9.0f} {result.in_time / result.seconds:10.1f} "
        f"{result.whole / max(1, result.in_time):7.1%} {result.refused / result.seconds:10.0f} {result.p50_ms:7.0f} "
        f"{result.p99_ms:7.0f} {result.refused_p50_ms:8.1f} ms  {shares}",
        flush=True,
    )
    return result


def load(rig: Rig, *, seed: int, seconds: float, callers: int = 0, per_s: float = 0.0) -> Result:
    """Loads the mesh's edge with searches, by a process of its own."""
    plan = Plan(
        port=rig.port("edge"),
        token=rig.token(),
        collection=rig.collection,
        words=list(rig.words),
        seconds=seconds,
        deadline_s=DEADLINE_S,
        seed=seed,
        callers=callers,
        per_s=per_s,
    )
    command = [sys.executable, "-m", "benchmarks.h2_load"]
    done = subprocess.run(command, input=json.dumps(asdict(plan)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Result(**json.loads(done.stdout))


if __name__ == "__main__":
    main()
