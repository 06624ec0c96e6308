"""A web server for tests whose answers are bytes, right or wrong."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

LOCAL = "127.0.0.1"


@dataclass
class Site:
    """An HTTP server whose answers are bytes by path, or one after the other; notes what it was asked."""

    answers: dict[str, bytes | list[bytes]]
    port: int = 0
    asked: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)

    serving: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serving.add(asyncio.current_task())  # type: ignore[arg-type]
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = next(
                (int(line.split(":")[1]) for line in head.lower().split("\r\n") if "content-length" in line), 0
            )
            body = await reader.readexactly(length)
            self.asked.append(head)  # both in one step: of requests that come together the n-th body is the n-th head's
            self.bodies.append(body)
            answers = self.answers.get(head.split(" ")[1], b"HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n")
            writer.write(answers.pop(0) if isinstance(answers, list) else answers)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def site(answers: Mapping[str, bytes | list[bytes]]) -> AsyncIterator[Site]:
    made = Site(dict(answers))
    server = await asyncio.start_server(made.serve, LOCAL, 0)
    async with server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
        if made.serving:
            await asyncio.wait(made.serving)


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
