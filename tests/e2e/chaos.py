"""Does each process of a mesh every harm in turn, under a steady load, and tells what its callers saw: `make chaos`.

    python -m tests.e2e.chaos [--victims retrieval,embedding,...] [--faults kill,stop,...] [--hold-s 10]

Every service has two replicas, each behind a proxy of its own that can refuse, swallow, delay or reset what goes to it.
The vector store is the tests' stand-in for a Qdrant server. Nobody restarts anything by hand: what was killed is
started by the mesh's supervisor, or, for the two stores, by this campaign, as systemd or a container engine would.

The table tells of each fault how many calls failed from its beginning until its recovery, and how long after its
beginning the last of them ended.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ragweave.local.processes import store_binary
from tests.e2e.stack import ROOT, UNASKED, Mesh
from tests.e2e.steady_load import READS, WRITES, Outcome, SteadyLoad, failed
from tests.e2e.troubles import stopped
from tests.ports import free_port
from tests.qdrant_server import url_of
from tests.tcp_proxy import Link, Proxy, proxies

RECOVERY_S: Final = 10.0
LEAST_READS: Final = 0.999
"""Share of idempotent reads that succeed while one of two replicas is harmed."""
KILL, STOP = "SIGKILL", "SIGSTOP 10 s"
FAULTS: Final = (KILL, STOP, *(link.value for link in Link if link is not Link.WHOLE))
SERVICES: Final = ("retrieval", "embedding", "collections", "jobs", "system")
# How long the load goes on between two faults: what comes late must show in the right line.
_REST_S: Final = 10.0
_RESTART_S: Final = 0.5


@dataclass(frozen=True)
class Told:
    """What callers saw of one fault.

    Attributes:
        reads: Reads that were due while it lasted and in the rest after it.
        last_s: From the beginning of the fault to the end of the last call that failed; 0 where none did.
        after_s: The same, from the end of the fault.
    """

    victim: str
    fault: str
    reads: int
    failed_reads: int
    writes: int
    failed_writes: int
    last_s: float
    after_s: float
    errors: Sequence[str]

    @property
    def share(self) -> float:
        return 1 - self.failed_reads / self.reads if self.reads else 1.0


def told(victim: str, fault: str, began: float, ended: float, outcomes: Sequence[Outcome]) -> Told:
    """What became of the calls that were due since a fault began."""
    due = [each for each in outcomes if each.began >= began]
    bad = failed(due, (*READS, *WRITES))
    last = bad[-1].ended if bad else began
    return Told(
        victim,
        fault,
        reads=sum(each.kind in READS for each in due),
        failed_reads=len(failed(due, READS)),
        writes=sum(each.kind in WRITES for each in due),
        failed_writes=len(failed(due, WRITES)),
        last_s=last - began,
        after_s=max(0.0, last - ended),
        errors=sorted({f"{each.kind}: {each.error[:120]}" for each in bad}),
    )


class Kept:
    """A process that is started again when it ends, as systemd or a container engine would do."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._command, self._log = command, log
        self._over = threading.Event()
        self._process = self._started()
        self._thread = threading.Thread(target=self._keep)

    @property
    def pid(self) -> int:
        return self._process.pid

    @contextmanager
    def running(self) -> Iterator["Kept"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._process.kill()
            self._thread.join()

    def _started(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._over.wait(_RESTART_S):
                return
            self._process = self._started()


@dataclass(frozen=True)
class Victim:
    """Who is harmed: a process by its pid, and what leads to it; no proxy where nobody calls it."""

    name: str
    pid: Callable[[], int]
    proxy: Proxy | None

    def harm(self, fault: str, hold_s: float) -> tuple[float, float]:
        """Does the fault and ends it: when it began, and when it was over, by time.monotonic()."""
        began = time.monotonic()
        if fault == KILL:
            os.kill(self.pid(), signal.SIGKILL)
            return began, began
        if fault == STOP:
            with stopped(self.pid()):
                time.sleep(hold_s)
            return began, time.monotonic()
        assert self.proxy
        self.proxy.become(Link(fault))
        try:
            time.sleep(hold_s)
        finally:
            self.proxy.become(Link.WHOLE)
        return began, time.monotonic()

    def faults(self) -> Sequence[str]:
        return FAULTS if self.proxy else (KILL, STOP)


@dataclass(frozen=True)
class Stage:
    """A mesh under load, and who may be harmed in it."""

    mesh: Mesh
    load: SteadyLoad
    victims: dict[str, Victim]

    @classmethod
    @contextmanager
    def set_up(
        cls, folder: Path, doubled: Sequence[str] = (*SERVICES, "worker"), documents: int = 100
    ) -> Iterator["Stage"]:
        """Starts two of each of `doubled`, and one of the others; the load is about so many documents."""
        with ExitStack() as opened:
            stores = {name: f"127.0.0.1:{free_port()}" for name in STORES}
            parts = {name: (name, f"{name}-2") if name in doubled else (name,) for name in SERVICES}
            replicas = [part for name in SERVICES for part in parts[name]]
            ports = {part: free_port() for part in replicas}
            upstreams = {part: f"127.0.0.1:{port}" for part, port in ports.items()}
            links = opened.enter_context(proxies(upstreams | stores))
            kept = {
                name: opened.enter_context(Kept(command(folder, stores[name]), folder / f"{name}.log").running())
                for name, command in STORES.items()
            }
            settings = {f"RAGWEAVE_{part.upper().replace('-', '_')}_PORT": str(port) for part, port in ports.items()}
            for name in SERVICES:
                addresses = ",".join(links[part].address for part in parts[name])
                settings[f"RAGWEAVE_{name.upper()}_TARGET"] = f"ipv4:{addresses}"
            settings |= {f"RAGWEAVE_{name.upper()}_REPLICAS": "2" for name in doubled}
            settings |= {
                "RAGWEAVE_REDIS_URL": f"redis://{links['redis'].address}",
                "RAGWEAVE_RETRIEVAL_STORE": "qdrant",
                "RAGWEAVE_RETRIEVAL_QDRANT_URL": url_of(links["vector store"].port),
                **UNASKED,
            }
            mesh = Mesh(folder / "data", **settings)
            opened.callback(mesh.stop)
            mesh.start()
            load = SteadyLoad.of(mesh, documents=documents)

            def pid_of(part: str) -> Callable[[], int]:
                return lambda: kept[part].pid if part in kept else mesh.pid(part)

            names = [*replicas, "worker", *STORES, "envoy"]
            yield cls(mesh, load, {name: Victim(name, pid_of(name), links.get(name)) for name in names})

    def campaign(
        self, victims: Sequence[str], faults: Sequence[str], hold_s: float, rest_s: float = _REST_S
    ) -> list[Told]:
        """Every fault to every victim, one after the other, each followed by a rest; the mesh serves again then."""
        found = []
        with self.load.running():
            time.sleep(rest_s)
            quiet = failed(self.load.outcomes, (*READS, *WRITES))
            assert not quiet, f"calls fail before anything is harmed: {quiet[:3]}"
            for name in victims:
                for fault in (each for each in self.victims[name].faults() if each in faults):
                    began, ended = self.victims[name].harm(fault, hold_s)
                    time.sleep(rest_s)
                    self.mesh.wait_ready()
                    found.append(told(name, fault, began, ended, tuple(self.load.outcomes)))
                    print(_line(found[-1]), flush=True)
        return found


def _redis(folder: Path, address: str) -> Sequence[str]:
    kept = folder / "redis"
    kept.mkdir()
    port = address.rpartition(":")[2]
    options = ["--dir", str(kept), "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    return [store_binary(), "--bind", "127.0.0.1", "--port", port, *options]


def _vector_store(folder: Path, address: str) -> Sequence[str]:
    return [sys.executable, "-m", "tests.qdrant_server", address.rpartition(":")[2], str(folder / "vectors")]


STORES: Final = {"redis": _redis, "vector store": _vector_store}


def _line(each: Told) -> str:
    return (
        f"| {each.victim} | {each.fault} | {each.failed_reads} of {each.reads} | {each.failed_writes} of {each.writes} "
        f"| {each.last_s:.1f} | {each.after_s:.1f} |"
    )


def main() -> int:
    """Prints the table; 1 where a bar is missed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*SERVICES, "worker", *STORES, "envoy"]
    arguments.add_argument("--victims", default=",".join(names))
    arguments.add_argument("--faults", default=",".join(FAULTS))
    arguments.add_argument("--hold-s", type=float, default=10.0)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder, Stage.set_up(Path(folder)) as stage:
        print("| process | fault | reads failed | writes failed | last failure, s | after the fault, s |")
        print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
        found = stage.campaign(given.victims.split(","), given.faults.split(","), given.hold_s)
        stage.load.check()
    return _judged(found)


def _judged(found: Sequence[Told]) -> int:
    reads = sum(each.reads for each in found if each.victim in SERVICES)
    lost = sum(each.failed_reads for each in found if each.victim in SERVICES)
    share = 1 - lost / reads if reads else 1.0
    slowest = max(found, key=lambda each: each.after_s)
    print(f"reads with one of two replicas harmed: {share:.4%} of {reads} answered; at least {LEAST_READS:.1%} wanted")
    print(f"longest recovery: {slowest.after_s:.1f} s ({slowest.victim}, {slowest.fault}); {RECOVERY_S:.0f} s allowed")
    for each in found:
        for error in each.errors:
            print(f"  {each.victim}, {each.fault}: {error}")
    return int(share < LEAST_READS or slowest.after_s > RECOVERY_S)


if __name__ == "__main__":
    sys.exit(main())
