"""What must hold of an import, whatever died under it: each document is there once, and the job says so."""

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, TypeVar

import grpc

from ragweave import Client, RagweaveError
from ragweave.v1 import collection_service_pb2, document_pb2, document_service_pb2, job_pb2, job_service_pb2
from services.embedding.adapters.onnx import ModelFiles
from services.jobs.adapters.hugging_face import HuggingFaceTokenizer
from services.jobs.chunker import Chunker
from services.jobs.extraction import ExtractedText

MAX_TOKENS = 64
_PARAGRAPHS, _WORDS = 5, 24
_PAGE = 100
_PATIENCE_S = 180.0
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)
_COUNTED = {
    job_pb2.JobItem.SUCCEEDED: "succeeded",
    job_pb2.JobItem.FAILED: "failed",
    job_pb2.JobItem.SKIPPED: "skipped",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Corpus:
    """Documents by source_uri, and the chunks each must become, computed here from the text alone."""

    texts: Mapping[str, str]
    chunks: Mapping[str, Sequence[str]]

    @classmethod
    def made(cls, folder: str, count: int, seed: int) -> "Corpus":
        """So many documents of words of English prose, no two alike, as files of a folder."""
        words = sorted(set(re.findall(r"[a-z]{3,}", " ".join(topics.values()))))
        draw = random.Random(seed)
        texts = {
            f"{folder}/{number:04}.txt": "\n\n".join(
                " ".join(draw.choices(words, k=_WORDS)).capitalize() + "." for _ in range(_PARAGRAPHS)
            )
            for number in range(count)
        }
        chunker = Chunker(HuggingFaceTokenizer.load(ModelFiles.packaged().tokenizer), MAX_TOKENS, 0)
        chunks = {
            uri: [chunk.text for chunk in chunker.chunk(ExtractedText(text, "text/plain"))]
            for uri, text in texts.items()
        }
        return cls(texts, chunks)

    def inline(self) -> list[dict[str, Any]]:
        return [
            {
                "document_id": uri.replace("/", "."),
                "text": text,
                "document": {"source_uri": uri, "mime_type": "text/plain"},
            }
            for uri, text in self.texts.items()
        ]

    def written_under(self, root: Path) -> None:
        """As files of a folder that imports may read."""
        for uri, text in self.texts.items():
            path = root / uri
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def patiently(call: Callable[[], T]) -> T:
    """The answer of a call that is safe to repeat, as a careful caller gets it of a mesh whose processes die."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return call()
        except (grpc.RpcError, RagweaveError) as error:
            code = error.code() if isinstance(error, grpc.RpcError) else error.code
            if code not in _PASSING or time.monotonic() > until:
                raise
        time.sleep(0.2)


def collection_for(client: Client, collection: str) -> None:
    """A collection that cuts as `Corpus` does."""
    client.create_collection(collection, chunking={"max_tokens": MAX_TOKENS})


def events_of(client: Client, job: str) -> list[job_service_pb2.WatchJobResponse]:
    """All that was ever told of a job that has ended, its final message left out."""
    return [event for event in patiently(lambda: list(client.watch(job))) if not event.HasField("final_status")]


def check_documents(client: Client, collection: str, corpus: Corpus) -> None:
    """Every document is there once, its chunks as computed here, no chunk twice, nothing else; and searches find it."""
    parent = f"collections/{collection}"
    listed = list(documents_of(client, parent))
    assert Counter(each.source_uri for each in listed) == Counter(corpus.texts.keys()), "documents are lost or double"
    for document in listed:
        uri, expected = document.source_uri, corpus.chunks[document.source_uri]
        assert document.state == document_pb2.Document.ACTIVE, document
        assert document.chunk_count == len(expected), uri
        chunks = list(chunks_of(client, document.name))
        assert len({chunk.name for chunk in chunks}) == len(chunks), f"{uri}: a chunk stands twice"
        assert [chunk.text for chunk in chunks] == expected, uri
        assert " ".join(chunk.text for chunk in chunks).split() == corpus.texts[uri].split(), uri
    stats = client.collections.GetCollectionStats(collection_service_pb2.GetCollectionStatsRequest(name=parent))
    assert (stats.active_documents, stats.chunks) == (len(corpus.texts), sum(map(len, corpus.chunks.values())))
    for document in listed[:: max(1, len(listed) // 5)]:
        hit = client.search(corpus.chunks[document.source_uri][0], collection, top_k=1).hits[0]
        assert hit.document == document.name, document.source_uri


def check_job(client: Client, name: str, corpus: Corpus) -> job_pb2.Job:
    """The job has ended as its items say, they as the documents say; its events tell of it without a gap."""
    job = client.jobs.GetJob(job_service_pb2.GetJobRequest(name=name))
    items = list(_items(client, name))
    states = Counter(item.state for item in items)
    progress = job.progress
    assert Counter(item.source_uri for item in items) == Counter(corpus.texts.keys()), "items are lost or double"
    assert set(states) <= set(_COUNTED), states
    for state, counter in _COUNTED.items():
        assert getattr(progress, counter) == states[state], (counter, states)
    assert (progress.total, progress.processed) == (len(items), len(items))
    assert progress.chunks == sum(item.chunks for item in items)
    assert job.state == job_pb2.Job.SUCCEEDED, job
    assert all(
        item.chunks == len(corpus.chunks[item.source_uri]) for item in items if item.state == job_pb2.JobItem.SUCCEEDED
    )
    events = events_of(client, name)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1)), "events are lost or double"
    assert events[-1].job.progress == progress
    return job


def _pages(call: Callable[[Any], Any], request: Any) -> Iterator[Any]:
    while True:
        page = call(request)
        yield page
        request.page_token = page.next_page_token
        if not request.page_token:
            return


def documents_of(client: Client, parent: str) -> Iterator[document_pb2.Document]:
    """Every document of a collection."""
    request = document_service_pb2.ListDocumentsRequest(parent=parent, page_size=_PAGE)
    for page in _pages(client.documents.ListDocuments, request):
        yield from page.documents


def chunks_of(client: Client, parent: str) -> Iterator[Any]:
    """Every chunk of a document."""
    request = document_service_pb2.ListChunksRequest(parent=parent, page_size=_PAGE)
    for page in _pages(client.documents.ListChunks, request):
        yield from page.chunks


def _items(client: Client, parent: str) -> Iterator[job_pb2.JobItem]:
    request = job_service_pb2.ListJobItemsRequest(parent=parent, page_size=_PAGE)
    for page in _pages(client.jobs.ListJobItems, request):
        yield from page.job_items
