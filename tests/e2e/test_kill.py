"""Any process may die under an import: it comes back, and the import completes with every document once.

`make crash-test` does the same with 300 documents and 50 kills.
"""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from ragweave import Client
from ragweave.v1 import job_pb2
from tests.e2e.durability import Corpus, check_documents, check_job, collection_for
from tests.e2e.kill_points import slept_before
from tests.e2e.stack import PATIENCE_S, Mesh

PROCESSES = ["worker", "jobs", "retrieval", "embedding", "collections", "redis", "envoy", "system"]
DOCUMENTS = 40
SEED = random.SystemRandom().randrange(2**32)


@pytest.mark.timeout(600)
def test_processes_killed_at_random_moments_of_an_import_come_back_and_nothing_is_lost(doomed: Mesh) -> None:
    print(f"seed {SEED}")  # shown where the test fails
    draw = random.Random(SEED)
    moments = sorted(draw.sample(range(1, DOCUMENTS), len(PROCESSES)))
    victims = draw.sample(PROCESSES, len(PROCESSES))
    corpus = Corpus.made("killed", DOCUMENTS, SEED)
    with doomed.client() as client:
        collection_for(client, "killed")
        job = client.import_texts("killed", corpus.inline()).name
        for event in client.watch(job):
            while moments and event.job.progress.processed >= moments[0]:
                moments.pop(0)
                doomed.kill(victims.pop())
        doomed.wait_ready()
        check_job(client, job, corpus)
        check_documents(client, "killed", corpus)


@pytest.mark.timeout(600)
def test_the_supervisor_killed_is_replaced_and_adopts_what_runs(doomed: Mesh) -> None:
    from ragweave.local.supervisor import supervisor_pid

    before, worker = supervisor_pid(doomed.layout), doomed.pid("worker")
    os.kill(before, signal.SIGKILL)
    until = time.monotonic() + PATIENCE_S
    while supervisor_pid(doomed.layout) in (0, before):
        assert time.monotonic() < until
        time.sleep(0.05)
    doomed.wait_ready()
    assert doomed.pid("worker") == worker


@pytest.mark.timeout(600)
def test_everything_killed_during_an_import_is_there_after_up(doomed: Mesh) -> None:
    corpus = Corpus.made("killed-all", 40, SEED)
    with doomed.client() as client:
        collection_for(client, "killed-all")
        job = client.import_texts("killed-all", corpus.inline()).name
        _wait_for_progress(client, job)
        doomed.kill_everything()
        doomed.start()
        client.wait(job)
        check_job(client, job, corpus)
        check_documents(client, "killed-all", corpus)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("effect", ["index.upsert", "registry.record"])
def test_a_worker_that_slept_past_its_lease_writes_nothing_and_hears_of_it(
    doomed: Mesh, effect: str, tmp_path: Path
) -> None:
    with doomed.client() as client:
        slept_before(doomed, client, effect, tmp_path / "log")


def _wait_for_progress(client: Client, job: str) -> None:
    """Returns when some items have ended and others have not."""
    for event in client.watch(job):
        if event.job.progress.processed >= 3:
            assert event.job.state == job_pb2.Job.RUNNING
            return
