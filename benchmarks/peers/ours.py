"""The mesh with the chunks in it, each a document of its own."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc

from benchmarks.peers.corpus import Chunk
from benchmarks.peers.doors import TOP, Door, Hit
from benchmarks.rig import Rig
from benchmarks.searching import over_rest
from ragweave import Client, RagweaveError
from ragweave.names import last_id
from ragweave.v1 import collection_service_pb2, job_pb2

COLLECTION: Final = "peers"
# What a search is asked for, by what the contestant is called; nothing is what callers get who ask for nothing.
MODES: Final[Mapping[str, Mapping[str, Any]]] = {"ours, dense": {"mode": "DENSE"}, "ours, hybrid": {}}
# Documents of a request: the most that one takes.
_BATCH: Final = 1000


def doors(rig: Rig, chunks: Sequence[Chunk]) -> list[Door]:
    """The edge, once the mesh has the chunks, asked for each mode."""
    collection, port, token = imported(rig, chunks), rig.port("edge"), rig.token()
    asked = {"topK": TOP, "readMask": "document,text,score"}
    return [
        Door(over_rest(name, port, token, collection, rig.processor_s, **asked, **fields), _hits)
        for name, fields in MODES.items()
    ]


def _hits(answer: Any) -> list[Hit]:
    return [Hit(last_id(each["document"]), each["text"], each["score"]) for each in answer["hits"]]


def imported(rig: Rig, chunks: Sequence[Chunk]) -> str:
    """The collection with the chunks in it; what is there already is not imported again.

    Raises:
        RuntimeError: A document was not imported, or is not one chunk.
    """
    with rig.client() as client:
        try:
            client.create_collection(COLLECTION)
        except RagweaveError as error:
            if error.code != grpc.StatusCode.ALREADY_EXISTS:
                raise
        for at in range(0, len(chunks), _BATCH):
            _import(client, chunks[at : at + _BATCH])
        asked = collection_service_pb2.GetCollectionRequest(name=f"collections/{COLLECTION}")
        has = client.collections.GetCollection(asked)
    if (has.document_count, has.chunk_count) != (len(chunks), len(chunks)):
        raise RuntimeError(f"of {len(chunks)} chunks came {has.document_count} documents of {has.chunk_count} chunks")
    return COLLECTION


def _import(client: Client, chunks: Sequence[Chunk]) -> None:
    ended = client.wait(
        client.import_texts(COLLECTION, ({"document_id": chunk.id, "text": chunk.text} for chunk in chunks)).name
    )
    if ended.state != job_pb2.Job.SUCCEEDED:
        raise RuntimeError(f"not all was imported: {ended}")
