"""Fills the disk under a mesh, and frees it again: `make disk-full-test`, or `python -m tests.e2e.disk_full`.

A whole mesh behind Envoy, its data folder on a tmpfs of its own (which takes root). All the while one caller imports
documents, one after the other, and another searches. The disk is left as it is, filled beyond the reserve, filled to
the last byte, and freed. Then every import that was acknowledged must have become its document.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from ragweave import RagweaveError
from ragweave.local.supervisor import read_state
from ragweave.v1 import document_pb2, document_service_pb2, job_pb2, job_service_pb2, search_pb2
from tests.e2e.durability import patiently
from tests.e2e.stack import Mesh
from tests.small_disk import MIB, NoMount, SmallDisk, small_disk

COLLECTION = "filling"
DISK = 768 * MIB
RESERVE = 128 * MIB
_PAUSE_S = 0.05
_RECOVERS_S = 30.0


@dataclass
class Phase:
    """What callers saw while the disk was in one state: how calls ended, by "OK" or the error's reason."""

    name: str
    writes: Counter[str] = field(default_factory=Counter)
    searches: Counter[str] = field(default_factory=Counter)


class Load:
    """Two callers that go on until the block ends."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self.phase = Phase("as it is")
        self.phases = [self.phase]
        self.acknowledged: dict[str, str] = {}  # a document's id, and its job
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._calling, args=(each,)) for each in (self._write, self._search)]

    def __enter__(self) -> "Load":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def begin(self, name: str) -> Phase:
        self.phase = Phase(name)
        self.phases.append(self.phase)
        return self.phase

    def _calling(self, call: Callable[[int], None]) -> None:
        number = 0
        while not self._stop.wait(_PAUSE_S):
            number += 1
            call(number)

    def _write(self, number: int) -> None:
        phase, document = self.phase, f"d{number}"
        text = f"Document {number} is about the number {number}. " + "Words, words, words. " * 50
        with self._mesh.client() as client:
            try:
                job = client.import_texts(COLLECTION, [{"document_id": document, "text": text}])
            except (RagweaveError, grpc.RpcError) as error:
                phase.writes[_reason(error)] += 1
                return
        self.acknowledged[document] = job.name
        phase.writes["OK"] += 1

    def _search(self, number: int) -> None:
        phase = self.phase
        bypass = search_pb2.SearchRequest.BYPASS
        request = search_pb2.SearchRequest(query=f"the number {number}", collection=COLLECTION, cache_control=bypass)
        with self._mesh.client() as client:
            try:
                found = client.retrieval.Search(request, timeout=10)
            except (RagweaveError, grpc.RpcError) as error:
                phase.searches[_reason(error)] += 1
                return
        phase.searches["OK" if found.hits else "no hits"] += 1


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or getattr(error, "code", lambda: error)())


def _wait_for(what: str, condition: Callable[[], bool], within_s: float) -> float:
    """Seconds until it holds."""
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > within_s:
            raise AssertionError(f"{what}: not within {within_s:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began_s


def run(mesh: Mesh, disk: SmallDisk, *, seconds: float) -> list[Phase]:
    """The phases; raises AssertionError where one was not as it must be."""
    with mesh.client() as client:
        client.create_collection(COLLECTION)
        texts = [{"document_id": f"k{number}", "text": f"The number {number} is kept."} for number in range(50)]
        assert client.wait(client.import_texts(COLLECTION, texts).name).state == job_pb2.Job.SUCCEEDED
    before = _restarts(mesh)
    with Load(mesh) as load:
        time.sleep(seconds)
        assert load.phase.writes["OK"], load.phase

        low = load.begin("less than the reserve free")
        disk.fill(leave_bytes=RESERVE // 2)
        _wait_for("a refusal", lambda: low.writes["DISK_FULL"] > 0, 10)
        low.writes.clear()
        time.sleep(seconds)
        assert set(low.writes) == {"DISK_FULL"}, low
        assert set(low.searches) == {"OK"}, low
        assert _restarts(mesh) == before, "a process ended"

        full = load.begin("full to the last byte")
        disk.fill()
        time.sleep(2 * seconds)
        assert "OK" not in full.writes, full
        assert set(full.searches) == {"OK"}, full

        freed = load.begin("freed")
        disk.free()
        took_s = _wait_for("a write", lambda: freed.writes["OK"] > 0, _RECOVERS_S)
        print(f"writes are taken again {took_s:.1f} s after there is room", flush=True)
        time.sleep(seconds)
        assert set(freed.searches) == {"OK"}, freed
    mesh.wait_ready()
    _check_kept(mesh, load)
    after = _restarts(mesh)
    print(f"started again by the supervisor: { ({name: after[name] - before[name] for name in after}) }")
    return load.phases


def _check_kept(mesh: Mesh, load: Load) -> None:
    """Every import that was acknowledged has become its document; a failed one is retried, as its job offers."""
    with mesh.client() as client:
        for document, job in load.acknowledged.items():
            ended = patiently(lambda job=job: client.wait(job))  # type: ignore[misc]
            if ended.state != job_pb2.Job.SUCCEEDED:
                retried = patiently(lambda job=job: client.jobs.RetryJob(job_service_pb2.RetryJobRequest(name=job)))  # type: ignore[misc]
                ended = patiently(lambda name=retried.name: client.wait(name))  # type: ignore[misc]
                print(f"{document}: succeeded when retried")
            assert ended.state == job_pb2.Job.SUCCEEDED, ended
            request = document_service_pb2.GetDocumentRequest(name=f"collections/{COLLECTION}/documents/{document}")
            assert client.documents.GetDocument(request).state == document_pb2.Document.ACTIVE, document
        search = search_pb2.SearchRequest(query="numbers", collection=COLLECTION, top_k=1, cache_control=1)
        assert client.retrieval.Search(search).hits


def _restarts(mesh: Mesh) -> dict[str, int]:
    return {name: int(each["restarts"]) for name, each in read_state(mesh.layout)["processes"].items()}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each state of the disk")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk", DISK) as disk:
                mesh = Mesh(disk.folder / "data", RAGWEAVE_MIN_FREE_DISK=str(RESERVE))
                mesh.start()
                try:
                    phases = run(mesh, disk, seconds=given.seconds)
                finally:
                    disk.free()
                    mesh.stop()
        except NoMount as refused:
            sys.exit(f"a small disk cannot be mounted here: {refused}")
    for phase in phases:
        print(f"{phase.name:<28} writes {dict(phase.writes)}, searches {dict(phase.searches)}")


if __name__ == "__main__":
    main()
