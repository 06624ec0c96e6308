"""How fast jobs are cancelled, how tenants share a worker, and what its memory does: `python -m benchmarks.jobs`.

    python -m benchmarks.jobs [--cancels 20] [--documents 10000] [--seed N]

Cancels come at random moments of an import; after some the worker is killed at once, after some the jobs API. Each job
is then retried, and every document checked.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ragweave import Client
from ragweave.v1 import job_pb2, job_service_pb2
from tests.e2e.durability import Corpus, check_documents, check_job, collection_for, patiently
from tests.e2e.stack import Mesh

CANCELLED_WITHIN_S = 5.0
SLOWER_AT_MOST = 3.0
_IMPORTED = 100
# What dies right after the cancel.
_DEATHS = ("", "", "worker", "jobs")
_SAMPLE_S = 1.0


def cancels(mesh: Mesh, count: int, draw: random.Random) -> dict[str, list[float]]:
    """Seconds from the request to the end of a job, by what died after it. Raises AssertionError for what is untrue."""
    took: dict[str, list[float]] = {death: [] for death in _DEATHS}
    with mesh.client() as client:
        for number in range(count):
            name, death = f"cancel-{number}", _DEATHS[number % len(_DEATHS)]
            mesh.wait_ready()
            corpus = Corpus.made(name, _IMPORTED, draw.randrange(2**32))
            collection_for(client, name)
            job = client.import_texts(name, corpus.inline()).name
            _wait_for(client, job, draw.randrange(_IMPORTED - 20))
            time.sleep(draw.uniform(0, 0.2))
            began = time.time()
            client.jobs.CancelJob(job_service_pb2.CancelJobRequest(name=job, request_id=name))
            if death:
                mesh.kill(death)
            ended = patiently(lambda job=job: client.wait(job))  # type: ignore[misc]
            assert ended.state == job_pb2.Job.CANCELLED, ended
            took[death].append(ended.end_time.ToMicroseconds() / 1e6 - began)
            done = ended.progress.processed
            patiently(lambda job=job: client.retry(job))  # type: ignore[misc]
            patiently(lambda job=job: client.wait(job))  # type: ignore[misc]
            mesh.wait_ready()
            check_job(client, job, corpus)
            check_documents(client, name, corpus)
            print(
                f"cancel {number}{f', {death} killed' if death else ''}: {took[death][-1]:.2f} s, {done} done",
                flush=True,
            )
    return took


def fairness(mesh: Mesh, draw: random.Random) -> tuple[float, float]:
    """Seconds ten documents of a tenant take by themselves, and while another tenant imports a thousand."""
    with mesh.client() as many, mesh.client(tenant="few", subject="fay") as few:
        collection_for(many, "many")
        collection_for(few, "few")
        alone = statistics.median(_import_seconds(few, f"alone-{at}", draw) for at in range(3))
        corpus = Corpus.made("many", 1000, draw.randrange(2**32))
        job = many.import_texts("many", corpus.inline()).name
        _wait_for(many, job, 20)
        beside = statistics.median(_import_seconds(few, f"beside-{at}", draw) for at in range(3))
        assert many.jobs.GetJob(job_service_pb2.GetJobRequest(name=job)).state == job_pb2.Job.RUNNING
        many.wait(job)
        check_documents(many, "many", corpus)
    return alone, beside


def memory(mesh: Mesh, documents: int) -> list[int]:
    """Resident bytes of the worker over an import of so many queued documents, once a second."""
    folder = mesh.layout.import_root / "tiny"
    folder.mkdir()
    for number in range(documents):
        (folder / f"{number:06}.txt").write_text(f"Document {number} is about number {number}.")
    sampled: list[int] = []
    with mesh.client() as client, _sampling(mesh.pid("worker"), sampled):
        client.create_collection("tiny")
        request = job_service_pb2.ImportDocumentsRequest(parent="collections/tiny")
        request.directory.path = "tiny"
        ended = client.wait(client.jobs.ImportDocuments(request).name)
        assert (ended.state, ended.progress.succeeded) == (job_pb2.Job.SUCCEEDED, documents), ended
    return sampled


@contextmanager
def _sampling(pid: int, into: list[int]) -> Iterator[None]:
    over = threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            into.append(pages * os.sysconf("SC_PAGE_SIZE"))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _import_seconds(client: Client, folder: str, draw: random.Random) -> float:
    corpus = Corpus.made(folder, 10, draw.randrange(2**32))
    began = time.perf_counter()
    ended = client.wait(client.import_texts("few", corpus.inline()).name)
    assert ended.state == job_pb2.Job.SUCCEEDED, ended
    return time.perf_counter() - began


def _wait_for(client: Client, job: str, processed: int) -> None:
    for event in client.watch(job):
        if event.job.progress.processed >= processed:
            return


def main() -> int:
    """Prints the figures; 1 where one is over its bound."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cancels", type=int, default=20)
    arguments.add_argument("--documents", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    draw = random.Random(given.seed)  # noqa: S311  (picks moments, guards nothing)
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            alone, beside = fairness(mesh, draw)
            print(f"ten documents: {alone:.2f} s alone, {beside:.2f} s beside 1,000 of another tenant", flush=True)
            took = cancels(mesh, given.cancels, draw)
            for death, seconds in took.items():
                after = f"{death} killed right after" if death else "nothing killed"
                print(f"cancelled, {after}: median {statistics.median(seconds):.2f} s, at most {max(seconds):.2f} s")
            resident = memory(mesh, given.documents) if given.documents else []
            for share in (0.1, 0.25, 0.5, 0.75, 1.0) if resident else ():
                at = max(0, int(len(resident) * share) - 1)
                print(f"worker after {share:.0%} of {given.documents:,} documents: {resident[at] / 2**20:.0f} MiB")
        finally:
            mesh.stop()
    longest = max(max(seconds) for seconds in took.values() if seconds)
    return int(longest > CANCELLED_WITHIN_S or beside > SLOWER_AT_MOST * alone)


if __name__ == "__main__":
    sys.exit(main())
