"""The load generators' own HTTP/1.1 and HTTP/2, against servers that others wrote, and one that misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from benchmarks import http1, http2
from benchmarks.measure import Refused
from benchmarks.searching import METHOD, over_grpc
from ragweave.v1 import search_pb2
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceServicer, add_RetrievalServiceServicer_to_server

Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[http1.Connection]:
    """A connection to a server that gives each of the answers once, and closes the connection at an empty one."""
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await reader.readuntil(b"\r\n\r\n")
            answer = left.pop(0)
            for begin in range(0, len(answer), 7):
                writer.write(answer[begin : begin + 7])
                await writer.drain()
            if not answer:
                break
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    connection = http1.Connection(server.sockets[0].getsockname()[1])
    async with server:
        try:
            yield connection
        finally:
            connection.close()


def answer(body: bytes, status: str = "200 OK", length: str = "Content-Length") -> bytes:
    return f"HTTP/1.1 {status}\r\n{length}: {len(body)}\r\nserver: mine\r\n\r\n".encode() + body


async def test_a_connection_asks_again_and_again() -> None:
    async with answering(answer(b'{"a": 1}'), answer(b"", length="content-length")) as connection:
        assert await connection.ask(http1.request("/x")) == b'{"a": 1}'
        assert await connection.ask(http1.request("/x")) == b""


async def test_what_is_not_200_is_refused_and_the_connection_goes_on() -> None:
    async with answering(answer(b"no", "503 Service Unavailable"), answer(b"yes")) as connection:
        with pytest.raises(Refused, match="503"):
            await connection.ask(http1.request("/x"))
        assert await connection.ask(http1.request("/x")) == b"yes"


async def test_a_connection_that_was_closed_is_made_again() -> None:
    async with answering(b"", answer(b"yes")) as connection:
        with pytest.raises(Refused, match="closed"):
            await connection.ask(http1.request("/x"))
        assert await connection.ask(http1.request("/x")) == b"yes"


async def test_an_answer_that_does_not_say_its_length_is_refused() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n") as connection:
        with pytest.raises(Refused, match="without its length"):
            await connection.ask(http1.request("/x"))


async def test_nobody_at_the_port_is_a_refusal() -> None:
    with pytest.raises(Refused):
        await http1.Connection(1).ask(http1.request("/x"))
    with pytest.raises(Refused):
        await http2.Caller(1, b"").ask(b"")


class Searches(RetrievalServiceServicer):
    """Says what it was asked; refuses "nothing", leaves a stage out where the query is the name of one."""

    async def Search(
        self, request: search_pb2.SearchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> search_pb2.SearchResponse:
        metadata = dict(context.invocation_metadata() or ())
        if request.query == "nothing":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        found = search_pb2.SearchResponse(hits=[search_pb2.Hit(text=f"{request.query} by {metadata['authorization']}")])
        if request.query in ("cache", "embed"):
            found.degraded_stages.add(stage=request.query)
        return found


@asynccontextmanager
async def searches() -> AsyncIterator[int]:
    server = grpc.aio.server()
    add_RetrievalServiceServicer_to_server(Searches(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_calls_over_http2_are_answered_in_turn() -> None:
    async with searches() as port:
        caller = http2.Caller(port, http2.headers(port, METHOD, "t" * 300, deadline_s=5))
        for query in ("first", "a" * 70_000, "third"):
            found = await caller.ask(search_pb2.SearchRequest(query=query).SerializeToString())
            assert search_pb2.SearchResponse.FromString(found).hits[0].text == f"{query} by Bearer {'t' * 300}"
        with pytest.raises(Refused):
            await caller.ask(search_pb2.SearchRequest(query="nothing").SerializeToString())
        caller.close()


async def test_a_search_without_its_vector_is_no_answer_and_one_without_the_cache_is() -> None:
    async with searches() as port:
        asked = iter(["whole", "embed", "cache", "whole"])
        taken = await over_grpc("ours", port, "t", "c").load(1, 3600.0, asked)
        assert (taken.errors, taken.in_time) == (1, 2)
        assert taken.error == "left out: embed"
