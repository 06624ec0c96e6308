"""A TCP proxy that does to connections what networks do: lets through, refuses, swallows, delays, resets."""

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from typing import Final

_CHUNK: Final = 2**16
# SO_LINGER of no seconds: close() sends RST.
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class Link(Enum):
    """What becomes of connections."""

    WHOLE = "whole"
    REFUSED = "connection refused"
    BLACK_HOLE = "black hole"  # nothing arrives; what was sent does once the link is whole again, as TCP repeats it
    SLOW = "500 ms latency"  # each answer arrives that much later
    RESET = "reset"


class Proxy:
    """One address in front of another. `become` is for any thread; the rest runs in the loop of `proxies`."""

    def __init__(self, upstream: str, latency_s: float) -> None:
        self.link = Link.WHOLE
        self._upstream = upstream
        self._latency_s = latency_s
        self._taken: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._loop = asyncio.get_running_loop()
        # Bound once: the port stays its own while it refuses.
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port: int = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._server: asyncio.Server | None = None

    def become(self, link: Link) -> None:
        """The link is so when this returns, for connections that are open too."""
        asyncio.run_coroutine_threadsafe(self._become(link), self._loop).result()

    async def listen(self) -> None:
        if self._socket.fileno() < 0:
            self._socket = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self._server = await asyncio.start_server(self._serve, sock=self._socket)

    async def close(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        for writer in tuple(self._taken):
            _reset(writer)

    async def _become(self, link: Link) -> None:
        before, self.link = self.link, link
        if link is Link.BLACK_HOLE:
            self._flowing.clear()
        else:
            self._flowing.set()
        if link is Link.REFUSED:
            await self.close()
        elif before is Link.REFUSED:
            await self.listen()
        if link is Link.RESET:
            for writer in tuple(self._taken):
                _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._taken.add(writer)
        onward: asyncio.StreamWriter | None = None
        try:
            await self._flowing.wait()
            if self.link is Link.RESET:
                return
            host, _, port = self._upstream.rpartition(":")
            answers, onward = await asyncio.open_connection(host, int(port))
            self._taken.add(onward)
            there = asyncio.create_task(self._pump(reader, onward, answers=False))
            back = asyncio.create_task(self._pump(answers, writer, answers=True))
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            there.cancel()
            back.cancel()
            await asyncio.wait({there, back})
        except OSError:  # nobody listens there: the same here
            pass
        finally:
            for each in (writer, onward):
                if each:
                    self._taken.discard(each)
                    _reset(each)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        """Bytes one way, in order, each chunk as late as the link is slow."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(1000)

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                if (left_s := due - self._loop.time()) > 0:
                    await asyncio.sleep(left_s)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()
                if not data:
                    return

        delivering = asyncio.create_task(deliver())
        try:
            with suppress(OSError):
                while True:
                    data = await reader.read(_CHUNK)
                    late_s = self._latency_s if answers and self.link is Link.SLOW else 0.0
                    await waiting.put((self._loop.time() + late_s, data))
                    if not data:
                        await delivering
                        return
        finally:
            delivering.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await delivering


@contextmanager
def proxies(upstreams: dict[str, str], *, latency_s: float = 0.5) -> Iterator[dict[str, Proxy]]:
    """A proxy by name in front of each `host:port`, on ports of their own, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def made() -> dict[str, Proxy]:
        opened = {name: Proxy(upstream, latency_s) for name, upstream in upstreams.items()}
        for each in opened.values():
            await each.listen()
        return opened

    async def closed(opened: dict[str, Proxy]) -> None:
        for each in opened.values():
            await each.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    opened = asyncio.run_coroutine_threadsafe(made(), loop).result()
    try:
        yield opened
    finally:
        asyncio.run_coroutine_threadsafe(closed(opened), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    with suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
