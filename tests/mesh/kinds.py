"""One method of the contract for each of gRPC's four kinds, all running the same script, and how to call each."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from ragweave.v1 import (
    collection_pb2,
    collection_service_pb2,
    collection_service_pb2_grpc,
    document_service_pb2,
    document_service_pb2_grpc,
    embedding_service_pb2,
    embedding_service_pb2_grpc,
    job_service_pb2,
    job_service_pb2_grpc,
)

Script = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """A script without an effect."""


class Scripted(
    collection_service_pb2_grpc.CollectionServiceServicer,
    document_service_pb2_grpc.DocumentServiceServicer,
    job_service_pb2_grpc.JobServiceServicer,
    embedding_service_pb2_grpc.EmbeddingServiceServicer,
):
    """Runs the script in each call: GetCollection and DeleteCollection, WatchJob, UploadDocument, StreamEmbed."""

    def __init__(self, script: Script = nothing) -> None:
        self.script = script
        self.calls = 0

    async def _run(self) -> None:
        self.calls += 1
        await self.script()

    async def GetCollection(self, request: Any, context: Any) -> collection_pb2.Collection:
        await self._run()
        return collection_pb2.Collection(name=request.name)

    async def DeleteCollection(self, request: Any, context: Any) -> collection_pb2.Collection:
        await self._run()
        return collection_pb2.Collection(name=request.name)

    async def WatchJob(self, request: Any, context: Any) -> AsyncIterator[job_service_pb2.WatchJobResponse]:
        await self._run()
        for sequence in (1, 2):
            yield job_service_pb2.WatchJobResponse(sequence=sequence)

    async def UploadDocument(self, requests: Any, context: Any) -> document_service_pb2.UploadDocumentResponse:
        async for _ in requests:
            pass
        await self._run()
        return document_service_pb2.UploadDocumentResponse()

    async def StreamEmbed(
        self, requests: Any, context: Any
    ) -> AsyncIterator[embedding_service_pb2.StreamEmbedResponse]:
        async for request in requests:
            await self._run()
            yield embedding_service_pb2.StreamEmbedResponse(id=request.id)


def add_scripted(servicer: Scripted, server: grpc.aio.Server) -> None:
    """Registers it for all its services."""
    collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(servicer, server)
    document_service_pb2_grpc.add_DocumentServiceServicer_to_server(servicer, server)
    job_service_pb2_grpc.add_JobServiceServicer_to_server(servicer, server)
    embedding_service_pb2_grpc.add_EmbeddingServiceServicer_to_server(servicer, server)


@dataclass(frozen=True)
class Kind:
    """One method and how to start a call of it; `valid` picks a request that passes or breaks the contract's bounds."""

    name: str
    path: str
    scope: str
    field: str
    start: Callable[..., Any]

    def __str__(self) -> str:
        return self.name


async def responses_of(call: Any) -> list[Any]:
    """All responses of a call of any kind."""
    if hasattr(call, "__aiter__"):
        return [response async for response in call]
    return [await call]


def _unary_unary(channel: grpc.aio.Channel, *, valid: bool = True, **options: Any) -> Any:
    request = collection_service_pb2.GetCollectionRequest(name="collections/a" if valid else "no such shape")
    return collection_service_pb2_grpc.CollectionServiceStub(channel).GetCollection(request, **options)


def _unary_stream(channel: grpc.aio.Channel, *, valid: bool = True, **options: Any) -> Any:
    request = job_service_pb2.WatchJobRequest(name="jobs/1", after_sequence=0 if valid else -1)
    return job_service_pb2_grpc.JobServiceStub(channel).WatchJob(request, **options)


def _stream_unary(channel: grpc.aio.Channel, *, valid: bool = True, **options: Any) -> Any:
    async def requests() -> AsyncIterator[document_service_pb2.UploadDocumentRequest]:
        yield document_service_pb2.UploadDocumentRequest(parent="collections/a")
        yield document_service_pb2.UploadDocumentRequest(sha256="" if valid else "not hex")

    return document_service_pb2_grpc.DocumentServiceStub(channel).UploadDocument(requests(), **options)


def _stream_stream(channel: grpc.aio.Channel, *, valid: bool = True, **options: Any) -> Any:
    async def requests() -> AsyncIterator[embedding_service_pb2.StreamEmbedRequest]:
        yield embedding_service_pb2.StreamEmbedRequest(id="1", text="one")
        yield embedding_service_pb2.StreamEmbedRequest(id="2" if valid else "2" * 257, text="two")

    return embedding_service_pb2_grpc.EmbeddingServiceStub(channel).StreamEmbed(requests(), **options)


KINDS = (
    Kind("unary", "/ragweave.v1.CollectionService/GetCollection", "collections.read", "name", _unary_unary),
    Kind("server_stream", "/ragweave.v1.JobService/WatchJob", "jobs.read", "after_sequence", _unary_stream),
    Kind("client_stream", "/ragweave.v1.DocumentService/UploadDocument", "documents.write", "sha256", _stream_unary),
    Kind("bidi", "/ragweave.v1.EmbeddingService/StreamEmbed", "search", "id", _stream_stream),
)
