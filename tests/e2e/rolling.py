"""Restarts a mesh under a steady mixed load and counts what its callers lost. `make rolling-test`.

    python -m tests.e2e.rolling [--embedded] [--only NAME...]

Two processes of every service on one store, the stand-in for a Qdrant server; `ragweave restart` takes them in turn,
then has one Envoy take over from another. Callers speak REST and gRPC to the edge, read and write, and repeat nothing;
some of their calls take 3 seconds: searches whose reranker is slow, uploads and streams that are sent slowly. An
import runs meanwhile. With --embedded there is one process of each, and the engine of the store in it: the retrieval
process is restarted, without searches of 3 seconds, which it would end first, and the longest wait of a search is told.
"""

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from ragweave.local.layout import SERVICES, WORKER
from ragweave.v1 import collection_pb2, job_pb2, search_pb2, system_service_pb2
from ragweave.v1 import collection_service_pb2 as collections_pb
from ragweave.v1 import document_service_pb2 as documents_pb
from ragweave.v1 import embedding_service_pb2 as embedding_pb
from ragweave.v1 import job_service_pb2 as jobs_pb
from ragweave.v1.collection_service_pb2_grpc import CollectionServiceStub
from ragweave.v1.document_service_pb2_grpc import DocumentServiceStub
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from ragweave.v1.job_service_pb2_grpc import JobServiceStub
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from ragweave.v1.system_service_pb2_grpc import SystemServiceStub
from tests.e2e.durability import Corpus
from tests.e2e.stack import PREFIX, Mesh
from tests.qdrant_server import QdrantProcess
from tests.rerank_server import rerank_server

COLLECTION, IMPORTED, RERANKER = "rolling", "imported", "slow"
SLOW_S = 3.2
_PAUSE_S = 0.1
_SLOW_SEARCHES = ("REST search, 3 s", "gRPC search, 3 s")
_DOCUMENTS = 60
_STEADY_S = 4.0


class Load:
    """Callers of a mesh's edge, and how each of their calls ended.

    Attributes:
        took_s: Seconds of each call that was answered, by kind.
        lost: What the others ended with, by kind.
    """

    def __init__(self, mesh: Mesh, *, but_not: Sequence[str] = ()) -> None:
        self._mesh = mesh
        self._but_not = but_not
        self._over = asyncio.Event()
        self.took_s: dict[str, list[float]] = defaultdict(list)
        self.lost: dict[str, list[str]] = defaultdict(list)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Load"]:
        """Calls inside the block; at its end, until what was begun is answered."""
        metadata = [("authorization", f"Bearer {self._mesh.token()}")]
        # gRPC itself sends again what a server says it has not looked at: a stream that crosses a GOAWAY. Nothing else
        # is repeated, since no service config asks for it.
        options = [("grpc.enable_retries", 1)]
        limits = httpx.Limits(max_keepalive_connections=4)
        async with (
            grpc.aio.insecure_channel(self._mesh.edge, options=options) as channel,
            httpx.AsyncClient(base_url=self._mesh.layout.url, headers=dict(metadata), timeout=30, limits=limits) as web,
        ):
            kinds = {**self._rest(web), **self._grpc(channel, metadata)}
            made = {kind: call for kind, call in kinds.items() if kind not in self._but_not}
            calling = [asyncio.create_task(self._call(kind, call)) for kind, call in made.items()]
            try:
                yield self
            finally:
                self._over.set()
                await asyncio.gather(*calling)

    async def _call(self, kind: str, call: Callable[[int], Awaitable[object]]) -> None:
        for number in itertools.count():
            began = time.monotonic()
            try:
                await call(number)
            except (grpc.RpcError, httpx.HTTPError) as error:
                self.lost[kind].append(f"{time.strftime('%H:%M:%S')} {_told(error)}")
            else:
                self.took_s[kind].append(time.monotonic() - began)
            if self._over.is_set():
                return
            await asyncio.sleep(_PAUSE_S)

    def _rest(self, web: httpx.AsyncClient) -> dict[str, Callable[[int], Awaitable[object]]]:
        async def asked(method: str, path: str, body: Any = None) -> None:
            (await web.request(method, PREFIX + path, json=body)).raise_for_status()

        async def collection(number: int) -> None:
            await asked("POST", f"/collections?collectionId=rest-{number}", {})
            await asked("DELETE", f"/collections/rest-{number}?force=true")

        query = {"query": "words of prose", "collection": COLLECTION}
        slow = {**query, "rerank": {"model": RERANKER}, "cacheControl": "BYPASS"}
        return {
            "REST search": lambda n: asked("POST", "/search", {**query, "query": f"words {n}"}),
            "REST search, 3 s": lambda _: asked("POST", "/search", slow),
            "REST write": collection,
            "REST models": lambda _: asked("GET", "/models"),
            "REST roots": lambda _: asked("GET", "/directories"),
        }

    def _grpc(self, channel: grpc.aio.Channel, metadata: Any) -> dict[str, Callable[[int], Awaitable[object]]]:
        said = {"metadata": metadata, "timeout": 20}
        retrieval, system = RetrievalServiceStub(channel), SystemServiceStub(channel)
        collections, jobs = CollectionServiceStub(channel), JobServiceStub(channel)
        documents, embedding = DocumentServiceStub(channel), EmbeddingServiceStub(channel)

        async def collection(number: int) -> None:
            name = f"grpc-{number}"
            made = collections_pb.CreateCollectionRequest(collection_id=name, collection=collection_pb2.Collection())
            await collections.CreateCollection(made, **said)
            gone = collections_pb.DeleteCollectionRequest(name=f"collections/{name}", force=True)
            await collections.DeleteCollection(gone, **said)

        async def upload(number: int) -> None:
            async def parts() -> AsyncIterator[documents_pb.UploadDocumentRequest]:
                for part in range(8):
                    request = documents_pb.UploadDocumentRequest()
                    if not part:
                        request.parent, request.filename = f"collections/{COLLECTION}", f"{number}.txt"
                    request.file.data = f"Part {part} of the file {number}.\n".encode()
                    yield request
                    await asyncio.sleep(SLOW_S / 8)

            await documents.UploadDocument(parts(), metadata=metadata, timeout=60)

        async def embed(number: int) -> None:
            async def texts() -> AsyncIterator[embedding_pb.StreamEmbedRequest]:
                for part in range(8):
                    yield embedding_pb.StreamEmbedRequest(id=str(part), text=f"text {number} {part}")
                    await asyncio.sleep(SLOW_S / 8)

            answers = [answer async for answer in embedding.StreamEmbed(texts(), metadata=metadata, timeout=60)]
            if len(answers) < 9 or answers[-1].final_status.code:
                raise grpc.aio.AioRpcError(grpc.StatusCode.ABORTED, grpc.aio.Metadata(), grpc.aio.Metadata(), "cut off")

        fields: dict[str, Any] = {"collection": COLLECTION, "cache_control": search_pb2.SearchRequest.BYPASS}
        slow = search_pb2.SearchRequest(query="words", rerank=search_pb2.SearchRequest.Rerank(model=RERANKER), **fields)
        return {
            "gRPC search": lambda n: retrieval.Search(search_pb2.SearchRequest(query=f"prose {n}", **fields), **said),
            "gRPC search, 3 s": lambda _: retrieval.Search(slow, **said),
            "gRPC write": collection,
            "gRPC upload, 3 s": upload,
            "gRPC stream, 3 s": embed,
            "gRPC jobs": lambda _: jobs.ListJobs(jobs_pb.ListJobsRequest(), **said),
            "gRPC audit": lambda _: system.ListAuditEvents(system_service_pb2.ListAuditEventsRequest(), **said),
        }

    def report(self) -> int:
        """Prints how each kind of call went; how many were lost."""
        lost = 0
        print(f"{'kind':20} {'calls':>6} {'lost':>5} {'median ms':>10} {'longest ms':>11}")
        for kind in sorted({*self.took_s, *self.lost}):
            took = sorted(self.took_s[kind]) or [0.0]
            lost += len(self.lost[kind])
            calls = len(self.took_s[kind]) + len(self.lost[kind])
            median_ms, longest_ms = took[len(took) // 2] * 1000, took[-1] * 1000
            print(f"{kind:20} {calls:6} {len(self.lost[kind]):5} {median_ms:10.0f} {longest_ms:11.0f}")
            for each in self.lost[kind][:5]:
                print(f"    {each}")
        return lost


def _told(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    if isinstance(error, httpx.HTTPStatusError):
        return f"{error.response.status_code}: {error.response.text[:200]}"
    return f"{type(error).__name__}: {error}"


async def restarted(mesh: Mesh, names: list[str], corpus: Corpus, but_not: Sequence[str]) -> int:
    """Restarts processes under load, and tells how it went; how many calls were lost."""
    with mesh.client() as client:
        for collection in (COLLECTION, IMPORTED):
            client.create_collection(collection)
        client.wait(client.import_texts(COLLECTION, corpus.inline()[:10]).name)
    async with Load(mesh, but_not=but_not).running() as load:
        await asyncio.sleep(_STEADY_S)
        with mesh.client() as client:
            job = client.import_texts(IMPORTED, corpus.inline())
        done = await asyncio.to_thread(mesh.ragweave, "restart", *names, check=False)
        print(done.stdout + done.stderr)
        await asyncio.sleep(_STEADY_S)
    lost = load.report()
    with mesh.client() as client:
        ended = await asyncio.to_thread(client.wait, job.name)
    print(f"the import {job_pb2.Job.State.Name(ended.state)}: {ended.progress.succeeded} of {ended.progress.total}")
    return lost + (ended.state != job_pb2.Job.SUCCEEDED) + bool(done.returncode)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--embedded", action="store_true", help="one process of each, and the engine in it")
    parser.add_argument("--only", nargs="*", default=[], help="restart these alone")
    chosen = parser.parse_args()
    corpus = Corpus.made("rolling", _DOCUMENTS, 1)
    with tempfile.TemporaryDirectory(prefix="rolling-") as folder, rerank_server() as reranker:
        server = QdrantProcess(Path(folder) / "qdrant")
        reranker.delay_s = SLOW_S
        settings = {"RAGWEAVE_EMBEDDING_RERANK_MODELS": f"{RERANKER}=tei+{reranker.url}/tei"}
        names = chosen.only
        if chosen.embedded:
            names = names or ["retrieval"]
        else:
            server.start()
            settings |= {f"RAGWEAVE_{name.upper()}_REPLICAS": "2" for name in (*SERVICES, WORKER)}
            settings |= {"RAGWEAVE_RETRIEVAL_STORE": "qdrant", "RAGWEAVE_RETRIEVAL_QDRANT_URL": server.url}
        mesh = Mesh(Path(folder) / "mesh", **settings)
        try:
            mesh.start()
            lost = asyncio.run(restarted(mesh, names, corpus, _SLOW_SEARCHES if chosen.embedded else ()))
        finally:
            mesh.stop()
            server.stop()
    print(f"{lost} lost")
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
