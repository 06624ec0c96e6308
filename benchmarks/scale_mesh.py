"""The whole mesh with an index that grows: what a search takes end to end, and what memory all of it takes."""

import asyncio
import time
from array import array
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import grpc

from benchmarks.scale_corpus import CHUNKS_A_DOCUMENT, Corpus
from benchmarks.scale_feed import Document, Feed
from benchmarks.scale_store import Spread
from ragweave.internal.v1 import index_service_pb2 as index_pb
from ragweave.internal.v1.index_service_pb2_grpc import IndexServiceStub
from ragweave.local.health import memory_bytes, standings
from ragweave.local.processes import processes
from ragweave.v1 import search_pb2
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from services.jobs.adapters.messages import struct_to
from services.mesh.channels import open_channel, opening_as
from services.mesh.identity import Caller, acting_for
from services.mesh.settings import MeshSettings
from services.retrieval.adapters.edge_graphs import points_that_start_a_build
from tests.e2e.stack import Mesh

COLLECTION: Final = "scale"
_WRITERS: Final = 4
_POLL_S: Final = 0.5
_REST_S: Final = 10.0


@dataclass(frozen=True)
class Whole:
    """The mesh at a size.

    Attributes:
        chunks_per_s: Written through retrieval with vectors made before, some documents at a time, over all the time.
        settling_s: Until its graphs were built.
        direct: Hybrid searches by words with their vectors given, by gRPC at retrieval's own port.
        stage: What of these the index took, as the answers tell it.
        through: Hybrid searches in words that the model embeds, by gRPC through the edge.
        memory: By process, in bytes, after a rest; retrieval's is with its engines.
    """

    chunks: int
    chunks_per_s: float
    settling_s: float
    direct: Spread | None
    stage: Spread | None
    through: Spread | None
    memory: Mapping[str, int]

    @property
    def all_bytes(self) -> int:
        return sum(self.memory.values())


class GrowingMesh:
    """A mesh with one collection, which is filled from a corpus part by part.

    Args:
        build_threshold: Chunks without a graph that start the building of one.
    """

    def __init__(self, mesh: Mesh, corpus: Corpus, feed: Feed, *, build_threshold: int) -> None:
        self._mesh = mesh
        self._corpus = corpus
        self._feed = feed
        self._build_threshold = build_threshold
        self._documents = 0
        with mesh.client() as client:
            self._uid = client.create_collection(COLLECTION).uid

    async def grow(self, chunks: int, queries: int) -> Whole:
        """Adds documents until there are so many chunks, and searches them."""
        layout = self._mesh.layout
        settings = MeshSettings(data_dir=layout.data, tls=layout.tls)
        async with AsyncExitStack() as opened:
            opened.enter_context(acting_for(Caller("default", "bench", by_itself=True)))
            opened.enter_context(opening_as("jobs"))
            address = layout.address("retrieval")
            index: Any = IndexServiceStub(await opened.enter_async_context(open_channel(settings, address)))
            began_s = time.perf_counter()
            written = await self._write(index, chunks // CHUNKS_A_DOCUMENT)
            written_s = time.perf_counter() - began_s
            await self._settle(index)
            settled_s = time.perf_counter() - began_s - written_s
            asked = list(self._corpus.questions(2 * queries, self._documents))
            with_vectors = [_request(each.text, array("f", each.vector)) for each in asked[:queries]]
            in_words = [_request(each.text) for each in asked[queries:]]
            direct, stage = await self._searched(address, with_vectors)
            through, _ = await self._searched(self._mesh.edge, in_words)
            await asyncio.sleep(_REST_S)
        running = standings(layout, processes(layout))
        return Whole(
            chunks,
            round(written / written_s, 1),
            round(settled_s, 1),
            Spread.of(direct),
            Spread.of(stage),
            Spread.of(through),
            {each.name: memory_bytes(each.pid) for each in running if each.pid},
        )

    async def _write(self, index: Any, documents: int) -> int:
        """Adds documents up to a number, and returns how many chunks they have."""
        waiting = self._feed.documents(self._documents, documents)
        taking, written = asyncio.Lock(), 0

        async def writer() -> None:
            nonlocal written
            while True:
                async with taking:
                    document = await anext(waiting, None)
                if document is None:
                    return
                await index.UpsertChunks(_upsert(self._uid, document))
                written += len(document)

        await asyncio.gather(*(writer() for _ in range(_WRITERS)))
        self._documents = documents
        return written

    async def _settle(self, index: Any) -> None:
        """Returns when no more chunks are without a graph than the policy leaves."""
        while True:
            stats = await index.GetIndexStats(index_pb.GetIndexStatsRequest(collection_uid=self._uid))
            few = points_that_start_a_build(self._build_threshold, stats.indexed_chunks)
            if stats.chunks - stats.indexed_chunks < few:
                return
            await asyncio.sleep(_POLL_S)

    async def _searched(
        self, address: str, requests: Sequence[search_pb2.SearchRequest]
    ) -> tuple[list[float], list[float]]:
        """Milliseconds of each, and what of it was the index's part."""
        signed = [("authorization", f"Bearer {self._mesh.token()}")]
        whole_ms, stage_ms = [], []
        async with grpc.aio.insecure_channel(address) as channel:
            stub = RetrievalServiceStub(channel)
            for request in requests:
                began_s = time.perf_counter()
                answer = await stub.Search(request, metadata=signed)
                whole_ms.append((time.perf_counter() - began_s) * 1e3)
                timings = {each.stage: each.duration.ToNanoseconds() / 1e6 for each in answer.timings}
                stage_ms.append(timings["store"])
        return whole_ms, stage_ms


def _request(words: str, vector: Sequence[float] = ()) -> search_pb2.SearchRequest:
    bypass = search_pb2.SearchRequest.BYPASS
    return search_pb2.SearchRequest(query=words, vector=vector, collection=COLLECTION, cache_control=bypass)


def _upsert(uid: str, document: Document) -> index_pb.UpsertChunksRequest:
    """As jobs' worker sends a document."""
    fields = document[0].chunk.document
    return index_pb.UpsertChunksRequest(
        collection_uid=uid,
        revision_key=document[0].chunk.revision_key,
        document=index_pb.DocumentFields(
            document_id=fields.document_id,
            title=fields.title,
            source_uri=fields.source_uri,
            mime_type=fields.mime_type,
            metadata=struct_to(fields.metadata),
            content_hash=fields.content_hash,
            revision=fields.revision,
        ),
        chunks=[
            index_pb.IndexChunk(
                chunk_id=each.chunk.chunk_id,
                ordinal=each.chunk.ordinal,
                text=each.chunk.text,
                context=each.chunk.context,
                token_count=each.chunk.token_count,
                vector=each.vector,
            )
            for each in document
        ],
    )
