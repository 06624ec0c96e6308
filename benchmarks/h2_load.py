"""The load of `benchmarks.overload`, in a process of its own: gRPC calls by the thousand for 20 us of a processor each.

`python -m benchmarks.h2_load` reads a Plan as JSON from stdin and prints a Result. A gRPC client would take a third of
this machine at 1,500 calls a second, and so lie about what the mesh can do. This one writes frames of HTTP/2 that are
made beforehand and looks at no more of an answer than whether there is one, and what it says is missing.
"""

import asyncio
import json
import random
import statistics
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from ragweave.v1 import search_pb2

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW_BYTES: Final = 2**31 - 1
_INITIAL_WINDOW: Final = 4
# The edge takes 100 streams a connection.
_STREAMS: Final = 90
_CONNECTIONS: Final = 40


@dataclass(frozen=True)
class Plan:
    """What to load.

    Attributes:
        words: Queries are drawn from these.
        callers: Calls at a time, each the next once answered; 0 for an open loop.
        per_s: Calls a second of the open loop, whether answered or not.
    """

    port: int
    token: str
    collection: str
    words: list[str]
    seconds: float
    deadline_s: float
    seed: int
    callers: int = 0
    per_s: float = 0.0


@dataclass
class Result:
    """What came of it. Of `offered`, those that are neither in time nor refused had no answer in time.

    Attributes:
        in_time: Answered within the deadline; `whole` of them with no stage left out.
        refused: Ended at once, or later, without an answer.
        cpu_s: Processor time of this process.
    """

    offered: int = 0
    in_time: int = 0
    whole: int = 0
    refused: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    refused_p50_ms: float = 0.0


@dataclass(slots=True)
class _Call:
    began_s: float
    answer: bytearray = field(default_factory=bytearray)


class Connection(asyncio.Protocol):
    """One connection to the edge."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._got = bytearray()
        self._next_id = 1
        self.calls: dict[int, _Call] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = struct.pack(">HI", _INITIAL_WINDOW, _WINDOW_BYTES)
        more = struct.pack(">I", _WINDOW_BYTES - 65_535)
        transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, window) + _frame(_WINDOW, 0, 0, more))

    def send(self, headers: bytes, message: bytes) -> None:
        """Begins a call."""
        assert self._transport
        id_, self._next_id = self._next_id, self._next_id + 2
        self.calls[id_] = _Call(time.perf_counter())
        data = b"\0" + struct.pack(">I", len(message)) + message
        self._transport.write(_frame(_HEADERS, _END_HEADERS, id_, headers) + _frame(_DATA, _END_STREAM, id_, data))

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._got += data
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
            raise ConnectionError(f"the edge wants no more: {bytes(payload)!r}")
        elif id_ in self.calls:
            call = self.calls[id_]
            if kind == _DATA:
                call.answer += payload
            if kind == _RESET or (kind in (_DATA, _HEADERS) and flags & _END_STREAM):
                del self.calls[id_]
                self._load.ended(call)


class Load:
    """A plan being carried out."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._draw = random.Random(plan.seed)  # noqa: S311  (picks words, guards nothing)
        self._headers = _headers(plan)
        self._connections: list[Connection] = []
        self._took_ms: list[float] = []
        self._refused_ms: list[float] = []
        self._going = False
        self.result = Result()

    async def run(self) -> Result:
        loop = asyncio.get_running_loop()
        for _ in range(_CONNECTIONS):
            _, made = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._plan.port)
            self._connections.append(made)
        cpu_s, began_s = time.process_time(), time.perf_counter()
        self._going = True
        if self._plan.callers:
            for _ in range(self._plan.callers):
                self._ask()
            await asyncio.sleep(self._plan.seconds)
        else:
            await self._open_loop(began_s)
        self._going = False
        self.result.seconds = time.perf_counter() - began_s
        self.result.cpu_s = time.process_time() - cpu_s
        if not self._plan.callers:  # what was sent in the last seconds counts, too; of a closed loop it would not
            await asyncio.sleep(self._plan.deadline_s + 0.5)
        for each in self._connections:
            each.close()
        for times, name in ((self._took_ms, "p50_ms"), (self._refused_ms, "refused_p50_ms")):
            setattr(self.result, name, statistics.median(times) if times else 0.0)
        self.result.p99_ms = statistics.quantiles(self._took_ms, n=100)[98] if len(self._took_ms) > 1 else 0.0
        return self.result

    async def _open_loop(self, began_s: float) -> None:
        due_s = began_s
        while due_s < began_s + self._plan.seconds:
            while due_s <= time.perf_counter():
                self._ask()
                due_s += self._draw.expovariate(self._plan.per_s)
            await asyncio.sleep(0.002)

    def _ask(self) -> None:
        text = " ".join(self._draw.sample(self._plan.words, 6))
        message = search_pb2.SearchRequest(
            query=text, collection=self._plan.collection, cache_control=search_pb2.SearchRequest.BYPASS
        )
        self.result.offered += 1
        free = min(self._connections, key=lambda each: len(each.calls))
        if len(free.calls) < _STREAMS:
            free.send(self._headers, message.SerializeToString())

    def ended(self, call: _Call) -> None:
        took_s = time.perf_counter() - call.began_s
        if not call.answer:
            self.result.refused += 1
            self._refused_ms.append(took_s * 1e3)
        elif took_s <= self._plan.deadline_s and (self._going or not self._plan.callers):
            answer = search_pb2.SearchResponse.FromString(bytes(call.answer[5:]))
            self.result.in_time += 1
            self.result.whole += not answer.degraded_stages
            self._took_ms.append(took_s * 1e3)
        if self._going and self._plan.callers:
            self._ask()


def _frame(kind: int, flags: int, id_: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + id_.to_bytes(4) + payload


def _headers(plan: Plan) -> bytes:
    """The header block of every call: literals without indexing, so that it stands by itself (RFC 7541, 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/ragweave.v1.RetrievalService/Search",
        ":authority": f"127.0.0.1:{plan.port}",
        "content-type": "application/grpc",
        "te": "trailers",
        "grpc-timeout": f"{round(plan.deadline_s * 1000)}m",
        "authorization": f"Bearer {plan.token}",
    }
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in fields.items())


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


def main() -> None:
    given: dict[str, Any] = json.load(sys.stdin)
    print(json.dumps(asdict(asyncio.run(Load(Plan(**given)).run()))))


if __name__ == "__main__":
    main()
