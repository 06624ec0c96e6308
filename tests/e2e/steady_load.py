"""A steady mixed load on a mesh, as its users make it, and what became of each call."""

import http.client
import itertools
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc

from ragweave import Client, RagweaveError
from ragweave.v1 import (
    collection_pb2,
    collection_service_pb2,
    document_service_pb2,
    job_pb2,
    search_pb2,
)
from tests.e2e.durability import patiently
from tests.e2e.stack import PREFIX, Mesh

COLLECTION: Final = "steady"
READS: Final = ("REST search", "gRPC search", "GetCollection", "ListDocuments")
WRITES: Final = ("UpdateCollection", "ImportDocuments")
_WORDS: Final = ("cat", "dog", "fish", "bird", "tree", "river", "stone", "cloud", "night", "light", "bread", "salt")
# What a REST caller waits: a search's own deadline at the edge, and the way.
_REST_TIMEOUT_S: Final = 10.0
_AT_ONCE: Final = 64


class Outcome(NamedTuple):
    """What became of one call.

    Attributes:
        began: time.monotonic() when it was due.
        seconds: Until it ended.
        error: Why it failed; empty where it did not.
    """

    kind: str
    began: float
    seconds: float
    error: str

    @property
    def ended(self) -> float:
        return self.began + self.seconds


@dataclass
class SteadyLoad:
    """Calls at fixed rates, whatever becomes of those before them.

    Attributes:
        outcomes: What became of each call that has ended.
        labelled: The highest number UpdateCollection was acknowledged for.
        jobs: Name of the job, and the one document, of each import that was acknowledged.
    """

    mesh: Mesh
    rates: dict[str, float]
    outcomes: list[Outcome] = field(default_factory=list)
    labelled: int = 0
    jobs: dict[str, str] = field(default_factory=dict)
    _updating: threading.Lock = field(default_factory=threading.Lock)
    _etag: str = ""

    @classmethod
    def of(cls, mesh: Mesh, *, documents: int = 100, reads_s: float = 16.0, writes_s: float = 1.0) -> "SteadyLoad":
        """So many reads and writes a second, shared evenly by their kinds, about a collection made for them."""
        with mesh.client() as client:
            client.create_collection(COLLECTION)
            texts = [{"document_id": f"first-{number}", "text": _prose(number)} for number in range(documents)]
            assert client.wait(client.import_texts(COLLECTION, texts).name).state == job_pb2.Job.SUCCEEDED
        rates = {kind: reads_s / len(READS) for kind in READS} | {kind: writes_s / len(WRITES) for kind in WRITES}
        return cls(mesh, rates)

    @contextmanager
    def running(self) -> Iterator[None]:
        """The load is on inside the block; calls under way at its end are waited for."""
        over = threading.Event()
        with self.mesh.client() as client, self._connections() as connection, ThreadPoolExecutor(_AT_ONCE) as pool:
            calls: dict[str, Callable[[int], None]] = {
                "REST search": lambda number: self._rest_search(connection(), number),
                "gRPC search": lambda number: self._grpc_search(client, number),
                "GetCollection": lambda _: self._get(client),
                "ListDocuments": lambda _: self._list(client),
                "UpdateCollection": lambda _: self._update(client),
                "ImportDocuments": lambda number: self._import(client, number),
            }
            pacing = [
                threading.Thread(target=self._pace, args=(pool, over, kind, rate, calls[kind]))
                for kind, rate in self.rates.items()
            ]
            for each in pacing:
                each.start()
            try:
                yield
            finally:
                over.set()
                for each in pacing:
                    each.join()

    def check(self) -> None:
        """Every write that was acknowledged is there. Raises AssertionError where one is not."""
        with self.mesh.client() as client:
            asked = collection_service_pb2.GetCollectionRequest(name=f"collections/{COLLECTION}")
            label = patiently(lambda: client.collections.GetCollection(asked)).labels.get("number", "0")
            assert int(label) >= self.labelled, (label, self.labelled)
            for name, document in self.jobs.items():
                job = patiently(lambda name=name: client.wait(name))
                assert job.state == job_pb2.Job.SUCCEEDED, job
                wanted = document_service_pb2.GetDocumentRequest(name=f"collections/{COLLECTION}/documents/{document}")
                kept = patiently(lambda wanted=wanted: client.documents.GetDocument(wanted))
                assert kept.chunk_count == 1, kept
                hits = patiently(lambda document=document: _found(client, document))
                assert hits[0].document == kept.name, (document, hits)

    def _pace(
        self, pool: ThreadPoolExecutor, over: threading.Event, kind: str, rate: float, call: Callable[[int], None]
    ) -> None:
        due = time.monotonic() + random.uniform(0, 1 / rate)
        for number in itertools.count(1):
            if over.wait(max(0.0, due - time.monotonic())):
                return
            pool.submit(self._one, kind, due, call, number)
            due += 1 / rate

    def _one(self, kind: str, due: float, call: Callable[[int], None], number: int) -> None:
        error = ""
        try:
            call(number)
        except (grpc.RpcError, RagweaveError, OSError, http.client.HTTPException, AssertionError) as failure:
            error = _said(failure)
        self.outcomes.append(Outcome(kind, due, time.monotonic() - due, error))

    def _rest_search(self, connection: http.client.HTTPConnection, number: int) -> None:
        body = json.dumps({"query": _question(number), "topK": 3})
        headers = {"authorization": f"Bearer {self.mesh.token()}", "content-type": "application/json"}
        try:
            connection.request("POST", f"{PREFIX}/collections/{COLLECTION}:search", body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except BaseException:
            connection.close()
            raise
        assert answer.status == 200, f"{answer.status} {said[:300].decode(errors='replace')}"
        assert len(json.loads(said)["hits"]) == 3, said

    @contextmanager
    def _connections(self) -> Iterator[Callable[[], http.client.HTTPConnection]]:
        """A connection to the edge for each thread that asks, which keeps it."""
        local, opened = threading.local(), list[http.client.HTTPConnection]()

        def connection() -> http.client.HTTPConnection:
            if not hasattr(local, "connection"):
                local.connection = self._connection()
                opened.append(local.connection)
            return local.connection

        try:
            yield connection
        finally:
            for each in opened:
                each.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.mesh.layout.https:
            trust = ssl.create_default_context(cafile=self.mesh.layout.edge_authority)
            return http.client.HTTPSConnection(self.mesh.edge, timeout=_REST_TIMEOUT_S, context=trust)
        return http.client.HTTPConnection(self.mesh.edge, timeout=_REST_TIMEOUT_S)

    def _grpc_search(self, client: Client, number: int) -> None:
        answer = client.search(_question(number), COLLECTION, top_k=3)
        assert len(answer.hits) == 3, answer

    def _get(self, client: Client) -> None:
        asked = collection_service_pb2.GetCollectionRequest(name=f"collections/{COLLECTION}")
        client.collections.GetCollection(asked)

    def _list(self, client: Client) -> None:
        asked = document_service_pb2.ListDocumentsRequest(parent=f"collections/{COLLECTION}", page_size=10)
        assert len(client.documents.ListDocuments(asked).documents) == 10

    def _update(self, client: Client) -> None:
        """One at a time, each on what the last one left: what was given up and done later undoes none."""
        with self._updating:
            number, etag, self._etag = self.labelled + 1, self._etag, ""
            if not etag:
                asked = collection_service_pb2.GetCollectionRequest(name=f"collections/{COLLECTION}")
                kept = client.collections.GetCollection(asked)
                number, etag = max(number, int(kept.labels.get("number", 0)) + 1), kept.etag
            changed = collection_pb2.Collection(
                name=f"collections/{COLLECTION}", labels={"number": str(number)}, etag=etag
            )
            request = collection_service_pb2.UpdateCollectionRequest(collection=changed)
            request.update_mask.paths.append("labels")
            self._etag = client.collections.UpdateCollection(request).etag
            self.labelled = number

    def _import(self, client: Client, number: int) -> None:
        document = f"n{number}x{random.randrange(2**32):08x}"
        text = f"{_mark(document)} is the name of {_prose(number)}"
        job = client.import_texts(COLLECTION, [{"document_id": document, "text": text}])
        self.jobs[job.name] = document


def failed(outcomes: Sequence[Outcome], kinds: Sequence[str]) -> list[Outcome]:
    """Those of the kinds that failed, in the order in which they ended."""
    return sorted((each for each in outcomes if each.error and each.kind in kinds), key=lambda each: each.ended)


def _found(client: Client, document: str) -> Sequence[search_pb2.Hit]:
    return client.search(_mark(document), COLLECTION, top_k=1, mode=search_pb2.SearchRequest.SPARSE).hits


def _mark(document: str) -> str:
    """A word of its own, for a document of that id."""
    return f"zq{document}"


def _prose(number: int) -> str:
    draw = random.Random(number)
    return " ".join(draw.choices(_WORDS, k=12)) + "."


def _question(number: int) -> str:
    """Seldom asked twice, so that no cache answers."""
    return f"{_prose(number)[:40]} {number}"


def _said(error: BaseException) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
