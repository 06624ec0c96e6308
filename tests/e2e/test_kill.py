"""Any process may die under an import: it comes back, and the import completes with every document once."""

import os
import signal
import time
from collections import Counter
from typing import Any

import pytest

from ragweave import Client
from ragweave.cli.demo import documents
from ragweave.v1 import document_service_pb2, job_pb2
from tests.e2e.stack import PATIENCE_S, Mesh

CORPUS: list[dict[str, Any]] = documents()[:40]


@pytest.fixture(scope="module")
def whole(doomed: Mesh) -> Counter[str]:
    """Chunks of the corpus, imported undisturbed."""
    with doomed.client() as client:
        client.create_collection("undisturbed")
        assert client.wait(client.import_texts("undisturbed", CORPUS).name).state == job_pb2.Job.SUCCEEDED
        return _chunks(client, "undisturbed")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", ["worker", "jobs", "retrieval", "embedding", "collections", "redis", "envoy", "system"]
)
def test_a_process_killed_during_an_import_comes_back_and_nothing_is_lost(
    doomed: Mesh, whole: Counter[str], name: str
) -> None:
    collection = f"killed-{name}"
    with doomed.client() as client:
        client.create_collection(collection)
        job = client.import_texts(collection, CORPUS).name
        _wait_for_progress(client, job)
        doomed.kill(name)
        ended = client.wait(job)
        doomed.wait_ready()
        assert ended.state == job_pb2.Job.SUCCEEDED, ended
        assert ended.progress.processed == len(CORPUS)
        assert _chunks(client, collection) == whole
        assert client.search("context manager exit method", collection).hits


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
def test_everything_killed_during_an_import_is_there_after_up(doomed: Mesh, whole: Counter[str]) -> None:
    with doomed.client() as client:
        client.create_collection("killed-all")
        job = client.import_texts("killed-all", CORPUS).name
        _wait_for_progress(client, job)
        doomed.kill_everything()
        doomed.start()
        assert client.wait(job).state == job_pb2.Job.SUCCEEDED
        assert _chunks(client, "killed-all") == whole


def _wait_for_progress(client: Client, job: str) -> None:
    """Returns when some items have ended and others have not."""
    for event in client.watch(job):
        if event.job.progress.processed >= 3:
            assert event.job.state == job_pb2.Job.RUNNING
            return


def _chunks(client: Client, collection: str) -> Counter[str]:
    """How often each chunk stands in the index: document and chunk ids, read document by document."""
    found: Counter[str] = Counter()
    for document in CORPUS:
        parent = f"collections/{collection}/documents/{document['document_id']}"
        token = ""
        while True:
            page = client.documents.ListChunks(
                document_service_pb2.ListChunksRequest(parent=parent, page_size=100, page_token=token)
            )
            found.update(chunk.name.removeprefix(f"collections/{collection}/") for chunk in page.chunks)
            assert page.total_size
            token = page.next_page_token
            if not token:
                break
    assert set(found.values()) == {1}, "a chunk stands twice"
    return found
