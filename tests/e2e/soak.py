"""Holds a mesh under a steady load, a tenth of its streams given up half-way, and watches what it keeps: `make soak`.

    python -m tests.e2e.soak [--minutes 15]

The table tells of each process its memory and its open descriptors after the warm-up and at the end, and the slope of
the line through all samples between.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from ragweave import Client
from ragweave.local.health import memory_bytes
from ragweave.v1 import job_service_pb2, search_pb2
from tests.e2e.stack import Mesh
from tests.e2e.steady_load import COLLECTION, READS, WRITES, SteadyLoad, failed

GIVEN_UP: Final = (0, 7)
"""Of every twenty streams those whose caller goes away before they end: a search, and a watch."""
FLAT_BYTES_S: Final = 2 * 2**20 / 60
"""Growth of a process's memory that is none: 2 MiB a minute."""
FLAT_DESCRIPTORS: Final = 16
"""Descriptors more at the end than after the warm-up that are none: connections come and go."""
_SAMPLE_S: Final = 5.0
_STREAMS_S: Final = 4.0


@dataclass(frozen=True)
class Sample:
    """What one process keeps.

    Attributes:
        at: time.monotonic().
        memory: Bytes, its children's included.
        descriptors: Open ones, its children's included.
    """

    at: float
    memory: int
    descriptors: int


@dataclass(frozen=True)
class Kept:
    """What one process kept over a soak, the warm-up left out."""

    name: str
    samples: Sequence[Sample]

    @property
    def slope(self) -> float:
        """Bytes a second, by least squares."""
        return statistics.linear_regression(
            [each.at for each in self.samples], [each.memory for each in self.samples]
        ).slope

    @property
    def descriptors(self) -> int:
        """How many more there were in the last quarter than in the first, by their medians."""
        quarter = max(1, len(self.samples) // 4)
        first, last = self.samples[:quarter], self.samples[-quarter:]
        return round(
            statistics.median(each.descriptors for each in last) - statistics.median(each.descriptors for each in first)
        )

    @property
    def flat(self) -> bool:
        return self.slope <= FLAT_BYTES_S and self.descriptors <= FLAT_DESCRIPTORS


@contextmanager
def streams(mesh: Mesh, a_second: float) -> Iterator["list[bool]"]:
    """Streams of searches and of a job's events, one after the other; for each, whether it was given up."""
    over, begun = threading.Event(), list[bool]()
    with mesh.client() as client:
        job = client.jobs.ListJobs(job_service_pb2.ListJobsRequest(page_size=1)).jobs[0].name

        def stream() -> None:
            for number in itertools.count():
                if over.wait(1 / a_second):
                    return
                given_up = number % 20 in GIVEN_UP
                _stream(client, job, number, given_up=given_up)
                begun.append(given_up)

        with ThreadPoolExecutor(1) as pool:
            streaming = pool.submit(stream)
            try:
                yield begun
            finally:
                over.set()
                streaming.result()


def _stream(client: Client, job: str, number: int, *, given_up: bool) -> None:
    if number % 2:
        call = client.jobs.WatchJob(job_service_pb2.WatchJobRequest(name=job))
    else:
        search = search_pb2.SearchRequest(
            collection=f"collections/{COLLECTION}", query=f"river and stone {number}", top_k=5
        )
        call = client.retrieval.StreamSearch(search_pb2.StreamSearchRequest(search=search))
    try:
        for _ in call:
            if given_up:
                call.cancel()
    except grpc.RpcError as error:
        if not given_up or error.code() is not grpc.StatusCode.CANCELLED:
            raise


def soak(
    mesh: Mesh, seconds: float, *, warm_up_s: float, sample_s: float = _SAMPLE_S, documents: int = 100
) -> tuple[list[Kept], int, int]:
    """What each process kept, and how many streams there were, given up and in all. Raises for a call that failed."""
    load = SteadyLoad.of(mesh, documents=documents)
    names = {name: mesh.pid(name) for name in mesh.names()}
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    with load.running(), streams(mesh, _STREAMS_S) as begun:
        time.sleep(warm_up_s)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for name, pid in names.items():
                samples[name].append(Sample(time.monotonic(), memory_bytes(pid), _descriptors(pid)))
            time.sleep(sample_s)
    bad = failed(load.outcomes, (*READS, *WRITES))
    assert not bad, f"{len(bad)} of {len(load.outcomes)} calls failed: {bad[:3]}"
    assert names == {name: mesh.pid(name) for name in names}, "a process was restarted"
    load.check()
    return [Kept(name, found) for name, found in samples.items()], sum(begun), len(begun)


def _descriptors(pid: int) -> int:
    """Open ones of a process and of everything in its session, as `memory_bytes` counts."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getsid(int(folder.name)) == pid:
                found += len(os.listdir(folder / "fd"))
    return found


def main() -> int:
    """Prints what each process kept; 1 where one grows."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--minutes", type=float, default=15.0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            found, given_up, streamed = soak(mesh, given.minutes * 60, warm_up_s=120.0)
        finally:
            mesh.stop()
    print(f"{streamed} streams, {given_up} given up by their callers")
    print("| process | memory, MiB | at the end | slope, KiB/min | descriptors | at the end |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for each in found:
        first, last = each.samples[0], each.samples[-1]
        print(
            f"| {each.name} | {first.memory / 2**20:.1f} | {last.memory / 2**20:.1f} "
            f"| {each.slope * 60 / 2**10:.0f} | {first.descriptors} | {last.descriptors} |"
        )
    grown = [each.name for each in found if not each.flat]
    print(f"not flat: {', '.join(grown)}" if grown else "flat")
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
