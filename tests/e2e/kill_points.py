"""Kills a worker after each of its side effects, and puts one to sleep before each write: part of `make crash-test`.

    python -m tests.e2e.kill_points

An import that replaces documents is worked on by a worker that gets a signal; the mesh's own then ends it. The side
effects are not listed anywhere: the worker is killed after its first, then after its second, until it gets through.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragweave import Client
from ragweave.v1 import job_pb2, job_service_pb2
from tests.e2e.durability import Corpus, check_documents, check_job, collection_for
from tests.e2e.stack import PATIENCE_S, ROOT, Mesh

# What a sleeper is about to do, and what it hears when it wakes up and does it.
SLEEPS = {
    "index.upsert": "has been written by somebody whose turn was later",
    "index.retire": "has been written by somebody whose turn was later",
    "registry.record": "has been recorded by somebody whose turn was later",
    "queue.finish": '"command": "finish"',
}
DOCUMENTS = 2
LEASE = {"RAGWEAVE_JOBS_LEASE_S": "2", "RAGWEAVE_JOBS_HEARTBEAT_S": "0.3"}


@contextmanager
def worker_aside(mesh: Mesh) -> Iterator[None]:
    """The mesh's own worker takes nothing inside the block."""
    pid = mesh.pid("worker")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def doomed_worker(mesh: Mesh, what: str, where: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    environment = {
        **os.environ,
        **mesh.settings,
        **mesh.layout.environment(),
        "RAGWEAVE_JOBS_WORKER_NAME": "doomed",
        "RAGWEAVE_JOBS_SLOTS": "1",
        # Who sleeps hears of it by what it was about to do, and not by a heartbeat that happens to be faster.
        **({"RAGWEAVE_JOBS_HEARTBEAT_S": "600"} if what == "STOP" else {}),
        "RAGWEAVE_WORKER_METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "tests.e2e.doomed_worker", what, where]
    with log.open("wb") as out, subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out) as worker:
        try:
            yield worker
        finally:
            worker.kill()


def killed_after(mesh: Mesh, client: Client, effects: int, log: Path) -> bool:
    """Whether the worker had so many side effects to die after. Raises AssertionError for what is lost or double."""
    name = f"point-{effects}"
    newer = _revised(client, name)
    with worker_aside(mesh), doomed_worker(mesh, "KILL", str(effects), log) as worker:
        job = client.import_texts(name, newer.inline()).name
        _until(lambda: worker.poll() is not None or _ended(client, job))
        killed = worker.poll() == -signal.SIGKILL
    client.wait(job)
    check_job(client, job, newer)
    check_documents(client, name, newer)
    return killed


def slept_before(mesh: Mesh, client: Client, effect: str, log: Path) -> None:
    """Raises AssertionError where a worker that slept past its lease changed anything, or did not hear of it."""
    name = f"sleep-{effect}"
    newer = _revised(client, name)
    newest = Corpus.made(name, DOCUMENTS, _seed(name, 3))
    with worker_aside(mesh):
        sleeping = doomed_worker(mesh, "STOP", effect, log)
        worker = sleeping.__enter__()
        job = client.import_texts(name, newer.inline()).name
        _until(lambda: _asleep(worker.pid))
    try:
        client.wait(job)  # another worker took over
        check_job(client, job, newer)
        last = client.import_texts(name, newest.inline()).name
        client.wait(last)
        os.kill(worker.pid, signal.SIGCONT)
        _until(lambda: "lease lost" in log.read_text() and SLEEPS[effect] in log.read_text())
    finally:
        sleeping.__exit__(None, None, None)
    check_job(client, job, newer)
    check_job(client, last, newest)
    check_documents(client, name, newest)


def _revised(client: Client, name: str) -> Corpus:
    """Documents of which an older revision is imported."""
    older, newer = (Corpus.made(name, DOCUMENTS, _seed(name, revision)) for revision in (1, 2))
    collection_for(client, name)
    client.wait(client.import_texts(name, older.inline()).name)
    return newer


def _seed(name: str, revision: int) -> int:
    """No two documents have the same text, so that nothing is known of one already."""
    return zlib.crc32(f"{name} {revision}".encode())


def _ended(client: Client, job: str) -> bool:
    state = client.jobs.GetJob(job_service_pb2.GetJobRequest(name=job)).state
    return state not in (job_pb2.Job.QUEUED, job_pb2.Job.RUNNING)


def _asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def _until(come) -> None:  # type: ignore[no-untyped-def]
    until = time.monotonic() + PATIENCE_S
    while not come():
        assert time.monotonic() < until
        time.sleep(0.05)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), **LEASE)
        log = Path(folder) / "doomed.log"
        mesh.start()
        try:
            with mesh.client() as client:
                effects = 1
                while killed_after(mesh, client, effects, log):
                    last = [line for line in log.read_text().splitlines() if " " not in line][-1]
                    print(f"killed after side effect {effects}, {last}: all there, each once", flush=True)
                    effects += 1
                for effect in SLEEPS:
                    slept_before(mesh, client, effect, log)
                    print(f"slept past the lease before {effect}: refused, and nothing changed", flush=True)
        finally:
            mesh.stop()


if __name__ == "__main__":
    main()
