"""Start-up time and idle memory of the mesh: `python -m benchmarks.footprint [--rounds N]`."""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from ragweave.local.health import memory_bytes, standings
from ragweave.local.processes import processes
from tests.e2e.stack import Mesh

_SETTLE_S = 10.0


def main() -> None:
    """Prints seconds from `ragweave up` to ready, and memory by process after ten idle seconds."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    rounds = arguments.parse_args().rounds
    took = []
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        for number in range(rounds):
            began = time.perf_counter()
            mesh.start()
            took.append(time.perf_counter() - began)
            try:
                if number == rounds - 1:
                    time.sleep(_SETTLE_S)
                    now = standings(mesh.layout, processes(mesh.layout))
                    memory = {each.name: memory_bytes(each.pid) for each in now}
                    for name, taken in {**memory, "all": sum(memory.values())}.items():
                        print(f"{name:<12} {taken / 2**20:7.1f} MiB")
            finally:
                mesh.stop()
    print(f"ready after {', '.join(f'{seconds:.1f}' for seconds in took)} s; median {statistics.median(took):.1f} s")


if __name__ == "__main__":
    main()
