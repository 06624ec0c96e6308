"""HTTP/1.1 as a load generator speaks it: one request at a time over a connection that is kept.

It looks at no more of an answer than its status and its length, so that what is measured is who answers.
"""

import asyncio
from collections.abc import Mapping

from benchmarks.measure import Refused

_HEAD_END = b"\r\n\r\n"


def request(path: str, body: bytes = b"", *, headers: Mapping[str, str] | None = None, verb: str = "POST") -> bytes:
    """A whole request, as it goes over the wire."""
    named = {"host": "127.0.0.1", "content-type": "application/json", **(headers or {}), "content-length": len(body)}
    lines = [f"{verb} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + _HEAD_END + body


class Connection(asyncio.Protocol):
    """One connection, made when it is first used, and again after it was lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._got = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[bytes] | None = None

    async def ask(self, request: bytes) -> bytes:
        """The body of the answer.

        Raises:
            Refused: It is not 200, does not say its length, or the connection broke.
        """
        loop = asyncio.get_running_loop()
        try:
            if self._transport is None:
                await loop.create_connection(lambda: self, "127.0.0.1", self._port)
            assert self._transport
            self._answer = loop.create_future()
            self._transport.write(request)
            return await self._answer
        except OSError as error:
            raise Refused(f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._got.clear()
        self._settle(Refused(f"the connection was closed: {error}"))

    def data_received(self, data: bytes) -> None:
        self._got += data
        head = self._got.find(_HEAD_END)
        if head < 0:
            return
        named = self._got[:head].lower().find(b"\r\ncontent-length: ")
        if named < 0:
            self._settle(Refused(f"an answer without its length: {self._got[:head].decode(errors='replace')}"))
            self.close()
            return
        at = named + len(b"\r\ncontent-length: ")
        body = head + len(_HEAD_END)
        end = body + int(self._got[at : self._got.find(b"\r", at)])
        if len(self._got) < end:
            return
        whole, self._got = bytes(self._got[:end]), self._got[end:]
        if whole.startswith(b"HTTP/1.1 200"):
            self._settle(whole[body:])
        else:
            self._settle(Refused(whole.decode(errors="replace")))

    def _settle(self, answer: bytes | Refused) -> None:
        if self._answer is None or self._answer.done():
            return
        if isinstance(answer, Refused):
            self._answer.set_exception(answer)
        else:
            self._answer.set_result(answer)
