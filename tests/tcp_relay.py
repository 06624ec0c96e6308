"""A TCP relay whose connections can be made to go silent, as those to a machine that vanished do: no FIN, no RST."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Relay:
    """Relays to `target`, "host:port", which may change for new connections.

    Attributes:
        port: Where it listens, on loopback.
        opened: Connections so far.
    """

    def __init__(self, target: str) -> None:
        self.target = target
        self.port = 0
        self.opened = 0
        self._flows: set[asyncio.Event] = set()

    def vanish(self) -> None:
        """From now on nothing passes on the connections there are, in either direction; new ones are relayed."""
        for silent in self._flows:
            silent.set()

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        host, _, port = self.target.rpartition(":")
        silent = asyncio.Event()
        self._flows.add(silent)
        theirs: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                their_reader, theirs = await asyncio.open_connection(host, int(port))
                await asyncio.gather(self._pass(reader, theirs, silent), self._pass(their_reader, writer, silent))
        finally:
            self._flows.discard(silent)
            for each in (writer, theirs):
                if each:
                    each.close()

    async def _pass(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, silent: asyncio.Event) -> None:
        while data := await source.read(2**16):
            if silent.is_set():
                continue  # taken, as a network does that loses it further on
            target.write(data)
            await target.drain()
        if not silent.is_set():
            target.close()


@asynccontextmanager
async def tcp_relay(target: str) -> AsyncIterator[Relay]:
    """A relay inside the block."""
    relay = Relay(target)
    running: set[asyncio.Task[None]] = set()

    def taken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(relay.relay(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(taken, "127.0.0.1", 0)
    relay.port = server.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
