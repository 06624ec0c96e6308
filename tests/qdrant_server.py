"""A stand-in for a Qdrant server: its gRPC protocol over qdrant-client's local engine, as far as our adapter speaks it.

It is for tests of what lies between the adapter and a server: sockets, breakers, restarts, several retrieval processes
on one store. It is no Qdrant: it searches exactly, keeps no replicas, and knows no consistency levels. A real server is
tested by setting RAGWEAVE_QDRANT_URL. `python -m tests.qdrant_server PORT [FOLDER]` runs it as a process; with a
folder, what it has acknowledged outlives a SIGKILL.
"""

import asyncio
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from qdrant_client import grpc as wire
from qdrant_client import models
from qdrant_client.conversions.conversion import GrpcToRest, RestToGrpc
from qdrant_client.local.async_qdrant_local import AsyncQdrantLocal

from tests.ports import free_port

_MESSAGE_BYTES = 64 * 2**20
_READY_S = 30.0


class Collections(wire.CollectionsServicer):  # type: ignore[misc]  # qdrant-client's stubs have no types
    """What the adapter asks of collections."""

    def __init__(self, engine: AsyncQdrantLocal) -> None:
        self._engine = engine

    async def Create(self, request: Any, context: Any) -> Any:
        sparse = GrpcToRest.convert_sparse_vector_config(request.sparse_vectors_config)
        vectors = GrpcToRest.convert_vectors_config(request.vectors_config)
        made = await self._engine.create_collection(request.collection_name, vectors, sparse)
        _write_lightly(self._engine)
        return wire.CollectionOperationResponse(result=made)

    async def Get(self, request: Any, context: Any) -> Any:
        info = await self._engine.get_collection(request.collection_name)
        return wire.GetCollectionInfoResponse(result=RestToGrpc.convert_collection_info(info))

    async def List(self, request: Any, context: Any) -> Any:
        known = (await self._engine.get_collections()).collections
        return wire.ListCollectionsResponse(collections=[wire.CollectionDescription(name=each.name) for each in known])

    async def CollectionExists(self, request: Any, context: Any) -> Any:
        exists = await self._engine.collection_exists(request.collection_name)
        return wire.CollectionExistsResponse(result=wire.CollectionExists(exists=exists))

    async def Update(self, request: Any, context: Any) -> Any:
        metadata = GrpcToRest.convert_payload(request.metadata)
        return wire.CollectionOperationResponse(
            result=await self._engine.update_collection(request.collection_name, metadata=metadata)
        )

    async def Delete(self, request: Any, context: Any) -> Any:
        return wire.CollectionOperationResponse(result=await self._engine.delete_collection(request.collection_name))


class Points(wire.PointsServicer):  # type: ignore[misc]  # qdrant-client's stubs have no types
    """What the adapter asks of points."""

    def __init__(self, engine: AsyncQdrantLocal) -> None:
        self._engine = engine

    async def Upsert(self, request: Any, context: Any) -> Any:
        points = [GrpcToRest.convert_point_struct(each) for each in request.points]
        return _updated(await self._engine.upsert(request.collection_name, points))

    async def Delete(self, request: Any, context: Any) -> Any:
        chosen = GrpcToRest.convert_points_selector(request.points)
        return _updated(await self._engine.delete(request.collection_name, chosen))

    async def SetPayload(self, request: Any, context: Any) -> Any:
        payload = GrpcToRest.convert_payload(request.payload)
        chosen = GrpcToRest.convert_points_selector(request.points_selector)
        return _updated(await self._engine.set_payload(request.collection_name, payload, chosen))

    async def UpdateBatch(self, request: Any, context: Any) -> Any:
        operations = [GrpcToRest.convert_points_update_operation(each) for each in request.operations]
        results = await self._engine.batch_update_points(request.collection_name, operations)
        return wire.UpdateBatchResponse(result=[RestToGrpc.convert_update_result(each) for each in results])

    async def CreateFieldIndex(self, request: Any, context: Any) -> Any:
        return _updated(await self._engine.create_payload_index(request.collection_name, request.field_name))

    async def Get(self, request: Any, context: Any) -> Any:
        records = await self._engine.retrieve(
            request.collection_name, [GrpcToRest.convert_point_id(each) for each in request.ids], *_wanted(request)
        )
        return wire.GetResponse(result=[_retrieved(each) for each in records])

    async def Scroll(self, request: Any, context: Any) -> Any:
        payload, vectors = _wanted(request)
        records, after = await self._engine.scroll(
            request.collection_name,
            _filter(request),
            limit=request.limit,
            offset=GrpcToRest.convert_point_id(request.offset) if request.HasField("offset") else None,
            with_payload=payload,
            with_vectors=vectors,
        )
        return wire.ScrollResponse(
            result=[_retrieved(each) for each in records],
            next_page_offset=None if after is None else RestToGrpc.convert_extended_point_id(after),
        )

    async def Count(self, request: Any, context: Any) -> Any:
        counted = await self._engine.count(request.collection_name, _filter(request))
        return wire.CountResponse(result=RestToGrpc.convert_count_result(counted))

    async def Facet(self, request: Any, context: Any) -> Any:
        facets = await self._engine.facet(request.collection_name, request.key, _filter(request), limit=request.limit)
        return wire.FacetResponse(hits=[RestToGrpc.convert_facet_value_hit(each) for each in facets.hits])

    async def Query(self, request: Any, context: Any) -> Any:
        (answer,) = await self._engine.query_batch_points(
            request.collection_name, [GrpcToRest.convert_query_points(request)]
        )
        return wire.QueryResponse(result=[RestToGrpc.convert_scored_point(each) for each in answer.points])

    async def QueryBatch(self, request: Any, context: Any) -> Any:
        queries = [GrpcToRest.convert_query_points(each) for each in request.query_points]
        answers = await self._engine.query_batch_points(request.collection_name, queries)
        return wire.QueryBatchResponse(
            result=[
                wire.BatchResult(result=[RestToGrpc.convert_scored_point(each) for each in answer.points])
                for answer in answers
            ]
        )


def _updated(result: models.UpdateResult) -> Any:
    return wire.PointsOperationResponse(result=RestToGrpc.convert_update_result(result))


def _retrieved(record: models.Record) -> Any:
    return RestToGrpc.convert_record(record.model_copy(update={"payload": record.payload or {}}))


def _wanted(request: Any) -> tuple[Any, Any]:
    """Which payload and which vectors are asked for; a server's default is neither."""
    payload = (
        GrpcToRest.convert_with_payload_selector(request.with_payload) if request.HasField("with_payload") else False
    )
    vectors = (
        GrpcToRest.convert_with_vectors_selector(request.with_vectors) if request.HasField("with_vectors") else False
    )
    return payload, vectors


def _filter(request: Any) -> models.Filter | None:
    return GrpcToRest.convert_filter(request.filter) if request.HasField("filter") else None


def _write_lightly(engine: AsyncQdrantLocal) -> None:
    """Has writes outlive this process, but not the machine: an fsync a point would take seconds."""
    for collection in engine.collections.values():
        if collection.storage is not None:
            collection.storage.storage.execute("PRAGMA journal_mode = WAL")
            collection.storage.storage.execute("PRAGMA synchronous = OFF")


class _Refusals(grpc.aio.ServerInterceptor):
    """The engine's complaints as a server's statuses."""

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        handler = await continuation(details)
        if handler is None or handler.response_streaming:
            return handler

        async def called(request: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await handler.unary_unary(request, context)
            except ValueError as error:
                missing = "not found" in str(error)
                await context.abort(StatusCode.NOT_FOUND if missing else StatusCode.INVALID_ARGUMENT, str(error))

        return grpc.unary_unary_rpc_method_handler(called, handler.request_deserializer, handler.response_serializer)


@asynccontextmanager
async def qdrant_server(port: int = 0, folder: Path | None = None) -> AsyncIterator[str]:
    """The server in this process; yields its URL as the adapter takes it, whose gRPC port is one above."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the local engine says what it leaves to a server
        engine = AsyncQdrantLocal(str(folder) if folder else ":memory:")
        _write_lightly(engine)
        options = [
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", _MESSAGE_BYTES),
            ("grpc.max_send_message_length", _MESSAGE_BYTES),
        ]
        server = grpc.aio.server(interceptors=[_Refusals()], options=options)
        wire.add_CollectionsServicer_to_server(Collections(engine), server)
        wire.add_PointsServicer_to_server(Points(engine), server)
        healthy = health.aio.HealthServicer()
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        try:
            yield url_of(bound)
        finally:
            await server.stop(0)
            await engine.close()


def url_of(grpc_port: int) -> str:
    """A server's URL, which names its REST port: one below that of gRPC."""
    return f"http://127.0.0.1:{grpc_port - 1}"


class QdrantProcess:
    """The server as a process that may be killed, stopped and started again on the same folder and port.

    Attributes:
        port: Where it speaks gRPC.
        pid: 0 while it does not run.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For RAGWEAVE_RETRIEVAL_QDRANT_URL."""
        return url_of(self.port)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Starts it and waits until it answers."""
        line = [sys.executable, "-m", "tests.qdrant_server", str(self.port), str(self._folder)]
        self._process = subprocess.Popen(line)
        until = time.monotonic() + _READY_S
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            while True:
                try:
                    wire.CollectionsStub(channel).List(wire.ListCollectionsRequest(), timeout=1, wait_for_ready=True)
                    return
                except grpc.RpcError:
                    assert self.pid, f"the stand-in for Qdrant ended with {self._process.returncode}"
                    assert time.monotonic() < until, "the stand-in for Qdrant does not answer"

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends it, by default in good order, and waits for its end."""
        if self._process:
            self._process.send_signal(number)
            self._process.wait()


async def main(port: int, folder: Path | None) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with qdrant_server(port, folder):
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None))
