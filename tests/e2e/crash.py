"""Kills processes of a mesh under imports, cancels and retries, and holds it to what it promised: `make crash-test`.

    python -m tests.e2e.crash [--kills 50] [--documents 300] [--seed N] [--lease-s 3]

Imports run one after the other, of inline documents and of directories by turns; some are cancelled at a random moment
and retried. Meanwhile a random process is killed at random moments, before the import is asked for, while it is
answered, until its end. After each, every document, chunk, item, counter and event is checked.
"""

import argparse
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from ragweave import Client
from ragweave.v1 import job_pb2, job_service_pb2
from tests.e2e.durability import Corpus, check_documents, check_job, collection_for, events_of, patiently
from tests.e2e.stack import Mesh

VICTIMS = ("worker", "jobs", "retrieval", "embedding", "collections", "redis")
RECOVERY_S = 30.0
# Between two kills: mostly time to recover, sometimes hardly any.
_PAUSES_S = ((0.05, 1.0), (1.0, 5.0), (3.0, 9.0))
_ENDED = (
    job_pb2.Job.SUCCEEDED,
    job_pb2.Job.PARTIALLY_SUCCEEDED,
    job_pb2.Job.FAILED,
    job_pb2.Job.CANCELLED,
)


@dataclass
class Killer:
    """Kills processes of a mesh at random moments while it is let loose, at most so many."""

    mesh: Mesh
    draw: random.Random
    most: int
    kills: list[tuple[float, str]] = field(default_factory=list)

    @contextmanager
    def loose(self) -> Iterator[None]:
        over = threading.Event()
        thread = threading.Thread(target=self._kill_until, args=(over,))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _kill_until(self, over: threading.Event) -> None:
        while len(self.kills) < self.most and not over.wait(self.draw.uniform(*self.draw.choice(_PAUSES_S))):
            self.kill(self.draw.choice(VICTIMS))

    def kill(self, name: str) -> None:
        """Nothing where it is down already."""
        pid = self.mesh.pid(name)
        with suppress(ProcessLookupError):
            if pid:
                os.kill(pid, signal.SIGKILL)
                self.kills.append((time.time(), name))


def recoveries(kills: list[tuple[float, str]], progress: list[float]) -> Iterator[tuple[str, float]]:
    """Of each kill under a job, the seconds until another of its documents had ended, or the job."""
    for at, name in kills:
        after = [moment for moment in progress if moment > at]
        if after:
            yield name, min(after) - at


@dataclass
class Campaign:
    """Imports into a mesh while its processes die."""

    mesh: Mesh
    draw: random.Random
    documents: int
    killer: Killer
    recovered: list[tuple[str, float]] = field(default_factory=list)
    ended: Counter[str] = field(default_factory=Counter)

    def import_once(self, number: int) -> None:
        """Raises AssertionError where anything is lost, double or untrue."""
        folder, directory, cancelled = f"crash-{number}", bool(number % 2), number % 3 == 1
        corpus = Corpus.made(folder, self.documents, self.draw.randrange(2**32))
        corpus.written_under(self.mesh.layout.import_root)
        self.mesh.wait_ready()
        killed = len(self.killer.kills)
        with self.mesh.client() as client:
            collection_for(client, folder)
            with self.killer.loose():
                job = self._ask(client, folder, corpus, directory)
                if cancelled:
                    self._cancel_and_retry(client, job)
                self._end(client, job)
            self.mesh.wait_ready()
            ended = check_job(client, job, corpus)
            check_documents(client, folder, corpus)
            moments = [event.event_time.ToMicroseconds() / 1e6 for event in events_of(client, job)]
        self.recovered += recoveries(self.killer.kills[killed:], moments)
        seconds = ended.end_time.ToMicroseconds() / 1e6 - ended.create_time.ToMicroseconds() / 1e6
        kind = ("directory" if directory else "inline") + (", cancelled and retried" if cancelled else "")
        died = [name for _, name in self.killer.kills[killed:]]
        print(f"import {number} ({kind}): {ended.progress.chunks} chunks, {seconds:.0f} s, killed {died}", flush=True)

    def _ask(self, client: Client, folder: str, corpus: Corpus, directory: bool) -> str:
        """The job; whoever sends the request again after a broken answer gets the same one."""
        once = f"import-{folder}"
        if not directory:
            return patiently(lambda: client.import_texts(folder, corpus.inline(), request_id=once)).name
        request = job_service_pb2.ImportDocumentsRequest(parent=f"collections/{folder}", request_id=once)
        request.directory.path = folder
        return str(patiently(lambda: client.jobs.ImportDocuments(request)).name)

    def _cancel_and_retry(self, client: Client, job: str) -> None:
        wanted = self.draw.randrange(self.documents // 2)
        for event in patiently(lambda: client.watch(job)):
            if event.job.progress.processed >= wanted:
                break
        self._die_about_now()
        cancel = job_service_pb2.CancelJobRequest(name=job, request_id=f"cancel-{job.rpartition('/')[2]}")
        patiently(lambda: client.jobs.CancelJob(cancel))
        self._end(client, job)
        self._die_about_now()
        retry = job_service_pb2.RetryJobRequest(name=job, request_id=f"retry-{job.rpartition('/')[2]}")
        patiently(lambda: client.jobs.RetryJob(retry))

    def _die_about_now(self) -> None:
        """Kills the jobs API before, while, or right after it answers what is asked next."""
        threading.Timer(self.draw.uniform(0, 0.03), self.killer.kill, ["jobs"]).start()

    def _end(self, client: Client, job: str) -> None:
        state = patiently(lambda: client.wait(job)).state
        self.ended[job_pb2.Job.State.Name(state)] += 1
        assert state in _ENDED


def campaign(mesh: Mesh, *, kills: int, documents: int, seed: int) -> tuple[Campaign, Killer]:
    """Imports until so many processes were killed."""
    draw = random.Random(seed)
    killer = Killer(mesh, random.Random(draw.random()), kills)
    made = Campaign(mesh, draw, documents, killer)
    number = 0
    while len(killer.kills) < kills:
        made.import_once(number)
        number += 1
    return made, killer


def main() -> int:
    """Prints what was killed and how long each recovery took; 1 where one took too long."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=50)
    arguments.add_argument("--documents", type=int, default=300)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments.add_argument("--lease-s", type=float, default=3.0)
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        lease = {"RAGWEAVE_JOBS_LEASE_S": str(given.lease_s), "RAGWEAVE_JOBS_HEARTBEAT_S": str(given.lease_s / 6)}
        mesh = Mesh(Path(folder), **lease)
        mesh.start()
        try:
            made, killer = campaign(mesh, kills=given.kills, documents=given.documents, seed=given.seed)
        except BaseException:
            _keep_logs(mesh)
            raise
        finally:
            mesh.stop()
    return _told(made, killer, given.lease_s)


def _told(made: Campaign, killer: Killer, lease_s: float) -> int:
    print(f"killed: {dict(Counter(name for _, name in killer.kills))}; jobs ended: {dict(made.ended)}")
    for name in VICTIMS:
        took = [seconds for victim, seconds in made.recovered if victim == name]
        if took:
            print(f"{name}: next document after {statistics.median(took):.1f} s, at most {max(took):.1f} s")
    longest = max((seconds for _, seconds in made.recovered), default=0.0)
    print(f"longest: {longest:.1f} s, of which the lease {lease_s:.1f} s; allowed: the lease and {RECOVERY_S:.0f} s")
    return int(longest > lease_s + RECOVERY_S)


def _keep_logs(mesh: Mesh) -> None:
    kept = Path(tempfile.mkdtemp(prefix="ragweave-crash-"))
    for log in mesh.layout.logs.glob("*.log"):
        (kept / log.name).write_bytes(log.read_bytes())
    print(f"logs are kept in {kept}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
