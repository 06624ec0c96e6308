"""Backs a mesh up while it is written to, restores it into an empty place, and compares: `make backup-test`.

python -m tests.e2e.backups [queries]
"""

import hashlib
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from time import monotonic
from typing import Any

from ragweave import Client
from ragweave.backups.manifest import Manifest
from ragweave.backups.shelf import Shelf
from ragweave.v1 import document_pb2, job_pb2, job_service_pb2, search_pb2
from tests.e2e.durability import Corpus, chunks_of, collection_for, documents_of
from tests.e2e.stack import Mesh

QUIET, BUSY = "python-reference", "busy"
QUERIES = 200
_MODES = ("HYBRID", "DENSE", "SPARSE")
_WORDS = 8


@dataclass(frozen=True)
class Seen:
    """What callers see of a collection.

    Attributes:
        documents: Everything of each but nothing of when it was read, by name.
        chunks: Hash of everything of each chunk, by its name.
        hits: The first ten with their scores, by query and mode.
    """

    documents: Mapping[str, str]
    chunks: Mapping[str, str]
    hits: Mapping[tuple[str, str], Sequence[tuple[str, float]]]

    @classmethod
    def of(cls, client: Client, collection: str, queries: Sequence[str]) -> "Seen":
        documents = {each.name: _hash(each) for each in documents_of(client, f"collections/{collection}")}
        chunks = {chunk.name: _hash(chunk) for name in documents for chunk in chunks_of(client, name)}
        return cls(
            documents, chunks, {(q, mode): _hits(client, collection, q, mode) for q in queries for mode in _MODES}
        )


def _hash(message: Any) -> str:
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()


def _hits(client: Client, collection: str, query: str, mode: str) -> list[tuple[str, float]]:
    bypass = search_pb2.SearchRequest.CacheControl.Value("BYPASS")
    answer = client.search(query, collection, top_k=10, mode=mode, cache_control=bypass)
    assert not answer.degraded_stages, answer.degraded_stages
    return [(hit.chunk, hit.score) for hit in answer.hits]


def queries_of(client: Client, collection: str, count: int) -> list[str]:
    """So many different ones: the first words of passages of the collection, from all over it."""
    parent = f"collections/{collection}"
    texts = [chunk.text for each in documents_of(client, parent) for chunk in chunks_of(client, each.name)]
    found = list(dict.fromkeys(" ".join(text.split()[:_WORDS]) for text in texts))
    return found[:: max(1, len(found) // count)][:count]


@contextmanager
def written(client: Client, collection: str) -> Iterator[list[int]]:
    """Documents of the collection are replaced and deleted, again and again, inside the block; how often so far."""
    rounds = [0]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            corpus = Corpus.made("busy", 12, seed=rounds[0])
            job = client.import_texts(collection, corpus.inline(), on_duplicate="REPLACE")
            client.wait(job.name)
            rounds[0] += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        yield rounds
    finally:
        stop.set()
        writing.join()


def check_whole(client: Client, collection: str) -> int:
    """Every ACTIVE document has exactly its chunks, all of them of its content; how many documents that are."""
    found = 0
    for document in documents_of(client, f"collections/{collection}"):
        assert document.state == document_pb2.Document.ACTIVE, document
        chunks = list(chunks_of(client, document.name))
        assert [chunk.ordinal for chunk in chunks] == list(range(document.chunk_count)), document.name
        assert {chunk.revision for chunk in chunks} == {document.revision}, document.name
        found += 1
    return found


def wait_for_jobs(client: Client) -> None:
    """Returns when no job is under way any more: those of the backup went on where they were."""
    page = client.jobs.ListJobs(job_service_pb2.ListJobsRequest(page_size=100))
    for job in page.jobs:
        if job.state in (job_pb2.Job.QUEUED, job_pb2.Job.RUNNING, job_pb2.Job.CANCELLING):
            client.wait(job.name)


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="ragweave-backups-") as folder:
        place = Path(folder)
        settings = {"RAGWEAVE_BACKUP_DIR": str(place / "backups")}
        first = Mesh(place / "first", **settings)
        first.start()
        try:
            first.ragweave("demo")
            with first.client() as client:
                queries = queries_of(client, QUIET, count)
                before = Seen.of(client, QUIET, queries)
                collection_for(client, BUSY)
                with written(client, BUSY) as rounds:
                    while rounds[0] < 2:
                        threading.Event().wait(0.1)
                    then = rounds[0]
                    first.ragweave("backup")
                    again = rounds[0]
                    first.ragweave("backup")
                assert rounds[0] > then, "nothing was written meanwhile"
        finally:
            first.stop()
        shelf = Shelf(place / "backups")
        made = [shelf.manifest(name) for name in shelf.names()]
        _tell(made, [again - then, rounds[0] - again])
        second = Mesh(place / "second", **settings)
        began_s = monotonic()
        second.ragweave("restore", made[0].name, "--into", str(place / "second"))
        print(f"restored in {monotonic() - began_s:.1f} s")
        copytree(place / "first" / "keys", place / "second" / "keys")
        second.start()
        try:
            with second.client() as client:
                after = Seen.of(client, QUIET, queries)
                wait_for_jobs(client)
                whole = check_whole(client, BUSY)
        finally:
            second.stop()
    assert len(queries) == count, f"only {len(queries)} different queries"
    for name in ("documents", "chunks", "hits"):
        assert getattr(after, name) == getattr(before, name), f"{name} differ"
    print(
        f"identical: {len(after.documents)} documents, {len(after.chunks)} chunks, the first 10 hits and their scores "
        f"of {count} queries in {len(_MODES)} modes; {whole} documents written meanwhile are whole"
    )


def _tell(made: Sequence[Manifest], rounds: Sequence[int]) -> None:
    for each, meanwhile in zip(made, rounds, strict=True):
        print(
            f"backup {each.name}: {each.disk_bytes / 2**20:.1f} MiB, {each.copied_bytes / 2**20:.1f} MiB of it new, "
            f"took {each.took_s:.1f} s; writes waited {each.held_s * 1000:.0f} ms; {meanwhile} imports ended meanwhile"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else QUERIES)
