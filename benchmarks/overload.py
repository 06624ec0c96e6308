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
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.h2_load import Plan, Result
from ragweave.cli.demo import documents
from ragweave.local.supervisor import read_state
from ragweave.v1 import job_pb2
from tests.e2e.stack import Mesh
from tests.e2e.troubles import engines

COLLECTION: Final = "topics"
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
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            with mesh.client() as client:
                client.create_collection(COLLECTION)
                ended = client.wait(client.import_texts(COLLECTION, documents()).name)
                assert ended.state == job_pb2.Job.SUCCEEDED, ended
            share = _measured(mesh, given)
        finally:
            mesh.stop()
    sys.exit(0 if share >= given.least else 1)


def _measured(mesh: Mesh, given: argparse.Namespace) -> float:
    """Goodput at the overload, as a share of the peak."""
    load(mesh, seed=given.seed, seconds=2.0, callers=8)  # warms up
    peak = 0.0
    print(f"{'load':<22}offered/s  in time/s   whole  refused/s  p50 ms  p99 ms  refused in  processors used")
    for callers in _CALLERS:
        result = _told(mesh, f"{callers} at a time", seed=given.seed + callers, seconds=given.seconds, callers=callers)
        peak = max(peak, result.in_time / result.seconds)
    over = _told(
        mesh, f"{given.times:g} times the peak", seed=given.seed, seconds=2 * given.seconds, per_s=given.times * peak
    )
    _told(mesh, "16 at a time, after", seed=given.seed + 1, seconds=given.seconds, callers=16)
    share = over.in_time / over.seconds / peak
    print(f"peak {peak:.0f}/s, goodput {over.in_time / over.seconds:.0f}/s: {share:.1%} of it")
    return share


def _told(mesh: Mesh, name: str, *, seed: int, seconds: float, callers: int = 0, per_s: float = 0.0) -> Result:
    before = _processor_s(mesh)
    result = load(mesh, seed=seed, seconds=seconds, callers=callers, per_s=per_s)
    used = {each: now - before.get(each, 0.0) for each, now in _processor_s(mesh).items()}
    used = {"load": result.cpu_s, **used}
    shares = ", ".join(f"{each} {s / result.seconds:.2f}" for each, s in used.items() if s / result.seconds >= 0.01)
    print(
        f"{name:<22}{result.offered / result.seconds:9.0f} {result.in_time / result.seconds:10.1f} "
        f"{result.whole / max(1, result.in_time):7.1%} {result.refused / result.seconds:10.0f} {result.p50_ms:7.0f} "
        f"{result.p99_ms:7.0f} {result.refused_p50_ms:8.1f} ms  {shares}",
        flush=True,
    )
    return result


def load(mesh: Mesh, *, seed: int, seconds: float, callers: int = 0, per_s: float = 0.0) -> Result:
    """Loads the edge of a mesh with searches, by a process of its own."""
    words = sorted({word for each in documents() for word in re.findall(r"[a-z]{4,}", each["text"])})
    plan = Plan(
        port=mesh.layout.ports["edge"],
        token=mesh.token(),
        collection=COLLECTION,
        words=words,
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


def _processor_s(mesh: Mesh) -> Mapping[str, float]:
    """Processor seconds of each process so far, by its name."""
    pids = {name: [int(each["pid"])] for name, each in read_state(mesh.layout)["processes"].items()}
    pids["envoy"] = [*pids["envoy"], *_children(pids["envoy"][0])]
    pids["engine"] = engines(mesh)
    return {name: sum(map(_of_pid, each)) for name, each in pids.items()}


def _children(pid: int) -> list[int]:
    return [int(each) for task in Path(f"/proc/{pid}/task").glob("*/children") for each in task.read_text().split()]


def _of_pid(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
