"""gRPC as a load generator speaks it: frames of HTTP/2 that are made beforehand, for 20 us of a processor a call.

A gRPC client would take a third of this machine at 1,500 calls a second, and so lie about what the mesh can do. This
one looks at no more of an answer than whether there is one.
"""

import asyncio
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from benchmarks.measure import Refused

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW_BYTES: Final = 2**31 - 1
_INITIAL_WINDOW: Final = 4
# Of what a connection takes in all; given back before it is used up.
_GIVEN_BACK: Final = 2**30


def headers(port: int, path: str, token: str, *, deadline_s: float | None = None) -> bytes:
    """The header block of a call: literals without indexing, so that it stands by itself (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": f"127.0.0.1:{port}",
        "content-type": "application/grpc",
        "te": "trailers",
        **({} if deadline_s is None else {"grpc-timeout": f"{round(deadline_s * 1000)}m"}),
        "authorization": f"Bearer {token}",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


@dataclass(slots=True)
class Call:
    """A call under way, or ended: with an empty answer it was refused."""

    began_s: float
    answer: bytearray = field(default_factory=bytearray)

    @property
    def message(self) -> bytes:
        """What was answered, without gRPC's prefix."""
        return bytes(self.answer[5:])


class Connection(asyncio.Protocol):
    """One connection with any number of calls.

    Args:
        ended: Told of every call that has ended.
    """

    def __init__(self, ended: Callable[[Call], None]) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()
        self._taken = 0
        self._next_id = 1
        self.calls: dict[int, Call] = {}

    @property
    def open(self) -> bool:
        return self._transport is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = struct.pack(">HI", _INITIAL_WINDOW, _WINDOW_BYTES)
        more = struct.pack(">I", _WINDOW_BYTES - 65_535)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, window) + _frame(_WINDOW, 0, 0, more))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        lost, self.calls = list(self.calls.values()), {}
        for call in lost:
            call.answer.clear()
            self._ended(call)

    def send(self, headers: bytes, message: bytes) -> None:
        """Begins a call."""
        assert self._transport
        id_, self._next_id = self._next_id, self._next_id + 2
        self.calls[id_] = Call(time.perf_counter())
        data = b"\0" + struct.pack(">I", len(message)) + message
        self._transport.write(_frame(_HEADERS, _END_HEADERS, id_, headers) + _frame(_DATA, _END_STREAM, id_, data))

    def close(self) -> None:
        """Ends it, and forgets what is under way."""
        self.calls.clear()
        if self._transport:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._got += data
        self._taken += len(data)
        if self._taken > _GIVEN_BACK and self._transport:
            self._transport.write(_frame(_WINDOW, 0, 0, struct.pack(">I", self._taken)))
            self._taken = 0
        at = 0
        while len(self._got) - at >= 9:
            length = int.from_bytes(self._got[at : at + 3])
            if len(self._got) - at < 9 + length:
                break
            kind, flags = self._got[at + 3], self._got[at + 4]
            id_ = int.from_bytes(self._got[at + 5 : at + 9]) & 0x7FFFFFFF
            self._take(kind, flags, id_, self._got[at + 9 : at + 9 + length])
            at += 9 + length
        del self._got[:at]

    def _take(self, kind: int, flags: int, id_: int, payload: bytearray) -> None:
        assert self._transport
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, bytes(payload)))
        elif kind == _GOAWAY:
            raise ConnectionError(f"the server wants no more: {bytes(payload)!r}")
        elif id_ in self.calls:
            call = self.calls[id_]
            if kind == _DATA:
                call.answer += payload
            if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                del self.calls[id_]
                self._ended(call)


class Caller:
    """One connection with one call at a time, made when it is first used, and again after it was lost."""

    def __init__(self, port: int, headers: bytes) -> None:
        self._port = port
        self._headers = headers
        self._connection = Connection(self._settle)
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self, message: bytes) -> bytes:
        """The message that answers another.

        Raises:
            Refused: There is none.
        """
        loop = asyncio.get_running_loop()
        try:
            if not self._connection.open:
                self._connection = Connection(self._settle)
                await loop.create_connection(lambda: self._connection, "127.0.0.1", self._port)
        except OSError as error:
            raise Refused(f"{type(error).__name__}: {error}") from None
        self._answer = loop.create_future()
        self._connection.send(self._headers, message)
        return await self._answer

    def close(self) -> None:
        self._connection.close()

    def _settle(self, call: Call) -> None:
        if self._answer is None or self._answer.done():
            return
        if call.answer:
            self._answer.set_result(call.message)
        else:
            self._answer.set_exception(Refused("an answer without a message"))


def _frame(kind: int, flags: int, id_: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + id_.to_bytes(4) + payload


def _text(text: str) -> bytes:
    """A string literal, its length as an integer of 7 bits and what is beyond (RFC 7541, 5.1)."""
    raw, length = text.encode(), len(text.encode())
    if length < 127:
        return bytes((length,)) + raw
    head, length = bytearray((127,)), length - 127
    while length >= 128:
        head.append(length % 128 + 128)
        length //= 128
    head.append(length)
    return bytes(head) + raw
