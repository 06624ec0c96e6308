"""Our client sends mutations again while nobody answers: under one id, a few times, within the call's time."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import ragweave.client
from ragweave import AsyncClient, Client
from ragweave.errors import RagweaveError
from ragweave.v1 import collection_pb2, collection_service_pb2_grpc, document_service_pb2_grpc
from ragweave.v1 import collection_service_pb2 as pb

Call = Callable[[str], Awaitable[Any]]


async def _create(target: str) -> str:
    def create() -> str:
        with Client(target) as client:
            return client.create_collection("docs").uid

    return await asyncio.to_thread(create)


async def _create_asynchronously(target: str) -> str:
    async with AsyncClient(target) as client:
        return (await client.create_collection("docs")).uid


async def _upload(target: str) -> str:
    def upload() -> str:
        with Client(target) as client:
            return client.upload("docs", "a.txt", b"word " * 200_000).name

    return await asyncio.to_thread(upload)


async def _upload_asynchronously(target: str) -> str:
    async with AsyncClient(target) as client:
        return (await client.upload("docs", "a.txt", b"word " * 200_000)).name


CALLS: dict[str, Call] = {
    "create": _create,
    "create, asynchronously": _create_asynchronously,
    "upload": _upload,
    "upload, asynchronously": _upload_asynchronously,
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ragweave.client, "_LONGEST_BACKOFF_S", 0.05)


@EVERY_CALL
async def test_what_a_killed_server_did_is_not_done_again(call: Call, tmp_path: Path, free_port: int) -> None:
    arguments = ("-m", "tests.mesh.crashing", str(free_port), str(tmp_path))
    servers = [
        await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for server in servers:
            assert server.stdout
            assert await server.stdout.readline() == b"serving\n"
        answer = await call(f"127.0.0.1:{free_port}")
    finally:
        for server in servers:
            if server.returncode is None:
                server.kill()
            await server.wait()
    first, *more = (tmp_path / "calls").read_text().split()
    assert more == [first], "sent twice under one id"
    (done,) = tmp_path.glob("done-*")
    assert answer.endswith(done.read_text())


class Refusing(
    collection_service_pb2_grpc.CollectionServiceServicer, document_service_pb2_grpc.DocumentServiceServicer
):
    """Answers each call with the next code, the last one for ever; None is an answer."""

    def __init__(self, *codes: grpc.StatusCode | None) -> None:
        self.codes = list(codes)
        self.ids: list[str] = []
        self.left_s: list[float] = []

    async def _answer(self, request: Any, context: Any) -> None:
        self.ids.append(request.request_id)
        self.left_s.append(context.time_remaining())
        code = self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]
        if code is not None:
            await context.abort(code, "no")

    async def CreateCollection(self, request: Any, context: Any) -> collection_pb2.Collection:
        await self._answer(request, context)
        return collection_pb2.Collection()

    async def UploadDocument(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        parts = [each async for each in request_iterator]
        await self._answer(parts[0], context)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        collection_service_pb2_grpc.add_CollectionServiceServicer_to_server(self, server)
        document_service_pb2_grpc.add_DocumentServiceServicer_to_server(self, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            await server.stop(None)


@EVERY_CALL
async def test_a_server_that_never_answers_is_given_up(call: Call) -> None:
    server = Refusing(grpc.StatusCode.UNAVAILABLE)
    async with server.serving() as target:
        with pytest.raises(RagweaveError):
            await call(target)
    assert len(server.ids) == 6
    assert len(set(server.ids)) == 1
    assert server.ids[0]


@EVERY_CALL
@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "ABORTED", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"])
async def test_an_answer_is_an_answer(call: Call, code: str) -> None:
    server = Refusing(grpc.StatusCode[code])
    async with server.serving() as target:
        with pytest.raises(RagweaveError):
            await call(target)
    assert len(server.ids) == 1


async def test_the_callers_message_stays_as_it_is_and_its_own_id_counts() -> None:
    server = Refusing(grpc.StatusCode.UNAVAILABLE, None)
    request = pb.CreateCollectionRequest(collection=collection_pb2.Collection())
    async with server.serving() as target, AsyncClient(target) as client:
        await client.collections.CreateCollection(request)
        await client.collections.CreateCollection(request)
        await client.collections.CreateCollection(pb.CreateCollectionRequest(request_id="mine"))
    assert request == pb.CreateCollectionRequest(collection=collection_pb2.Collection())
    first, again, second, mine = server.ids
    assert first == again != second
    assert mine == "mine"


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize(("pause_s", "attempts"), [(0.3, 6), (30, 1)])
async def test_attempts_share_the_calls_time(
    blocking: bool, pause_s: float, attempts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ragweave.client.random, "uniform", lambda *_: pause_s)
    server = Refusing(grpc.StatusCode.UNAVAILABLE)
    async with server.serving() as target:
        with pytest.raises(grpc.RpcError):
            if blocking:
                with Client(target) as client:
                    request = pb.CreateCollectionRequest()
                    await asyncio.to_thread(client.collections.CreateCollection, request, timeout=5)
            else:
                async with AsyncClient(target) as aio:
                    await aio.collections.CreateCollection(pb.CreateCollectionRequest(), timeout=5)
    assert len(server.left_s) == attempts
    for at, left_s in enumerate(server.left_s):
        assert left_s < (5 - at * pause_s) * 1.05, "gRPC rounds a deadline up by less"
