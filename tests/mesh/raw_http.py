"""HTTP as no library would send it: bytes for HTTP/1, headers nobody checks for HTTP/2."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)

PATIENCE_S = 30.0
Headers = Iterable[tuple[str, str]]


@dataclass
class Reply:
    """What came back; `reset` where the stream or the connection ended without an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: bool = False

    @property
    def over(self) -> bool:
        return self.ended or self.reset

    def json(self) -> Any:
        return json.loads(self.body)


async def http1(port: int, request: bytes) -> Reply:
    """Sends bytes and reads one answer with a content-length."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        async with asyncio.timeout(PATIENCE_S):
            return await read_http1(reader)
    finally:
        writer.close()


async def read_http1(reader: asyncio.StreamReader) -> Reply:
    """One answer of an open connection."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1").split("\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return Reply(reset=True)
    lines = (line.partition(": ") for line in head[1:] if line)
    reply = Reply(int(head[0].split()[1]), {name.lower(): value for name, _, value in lines})
    reply.body = await reader.readexactly(int(reply.headers.get("content-length", 0)))
    reply.ended = True
    return reply


class Http2:
    """One HTTP/2 connection that sends whatever it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.wire = H2Connection(
            H2Configuration(
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
                validate_inbound_headers=False,
            )
        )
        self.replies: dict[int, Reply] = {}
        self.terminated = False
        self._heard: set[type[Event]] = set()
        self.wire.initiate_connection()

    @classmethod
    @asynccontextmanager
    async def to(cls, port: int) -> AsyncIterator["Http2"]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    def send(self, headers: Headers, body: bytes | None = None, *, end: bool = True) -> int:
        """Begins a request; returns its stream."""
        stream = self.wire.get_next_available_stream_id()
        self.replies[stream] = Reply()
        self.wire.send_headers(stream, list(headers), end_stream=end and body is None)
        if body is not None:
            self.wire.send_data(stream, body, end_stream=end)
        return stream

    async def flush(self) -> None:
        self._writer.write(self.wire.data_to_send())
        await self._writer.drain()

    async def answered(self, *streams: int) -> list[Reply]:
        """The replies of these streams, once each has ended, or the connection has."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.terminated and not all(self.replies[each].over for each in streams):
                await self._step()
        return [self.replies[each] for each in streams]

    async def ask(self, headers: Headers, body: bytes | None = None) -> Reply:
        [reply] = await self.answered(self.send(headers, body))
        return reply

    async def heard(self, kind: type[Event]) -> None:
        """Returns when an event of this kind has come, or the connection has ended."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.terminated and kind not in self._heard:
                await self._step()

    async def _step(self) -> None:
        await self.flush()
        try:
            data = await self._reader.read(65536)
        except ConnectionError:
            data = b""
        if not data:
            self.terminated = True
            for reply in self.replies.values():
                reply.reset = not reply.ended
            return
        for event in self.wire.receive_data(data):
            self._take(event)

    def _take(self, event: Event) -> None:
        self._heard.add(type(event))
        if isinstance(event, ConnectionTerminated):
            self.terminated = True
        reply = self.replies.get(getattr(event, "stream_id", None) or 0)
        if reply is None:
            return
        if isinstance(event, (ResponseReceived, TrailersReceived)):
            reply.headers |= dict(event.headers)  # type: ignore[arg-type]
            reply.status = int(reply.headers[":status"])
        elif isinstance(event, DataReceived):
            reply.body += event.data
            self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, StreamEnded):
            reply.ended = True
        elif isinstance(event, StreamReset):
            reply.reset = True
