"""The service's end of an engine: starts the process, has many requests under way, notices when it dies."""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import structlog

import services
from services.mesh.errors import DependencyUnavailable, IndexFailed
from services.retrieval.adapters.edge_frames import FORGET, Unframer, packed

_STOP_S: Final = 10.0
_READ_BYTES: Final = 2**18


class EngineDied(Exception):
    """The process ended before it answered."""


class EngineFailed(Exception):
    """Edge refused or failed; the text is its own, for the log alone."""


class ShardMissing(Exception):
    """The shard asked for is not there, or no longer."""


class EdgeEngine:
    """One running engine.

    Started by exec alone, without a fork of Python's own, so that gRPC may already be in use.
    """

    def __init__(self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._process = process
        self._writer = writer
        self._ids = itertools.count()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._reading = asyncio.create_task(self._read(reader))
        self.alive = True
        self.asked_at_s = asyncio.get_running_loop().time()

    @classmethod
    async def start(cls, *, max_open: int, keeping: int) -> "EdgeEngine":
        """Starts the process.

        Args:
            max_open: Shards it keeps open at a time.
            keeping: Descriptor of the folder's lock; held by the process too, so the lock outlives none of its writers.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = spawn(
                "edge_child", str(theirs.fileno()), str(os.getpid()), str(max_open), keep=(theirs.fileno(), keeping)
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def request(self, operation: str, folder: Path | str = "", *arguments: Any) -> Any:
        """The engine's answer. Given up, a read that has not begun is not done at all.

        Raises:
            EngineDied: The process ended first; a write may have been applied.
            EngineFailed: Edge refused it.
            ShardMissing: There is no such shard.
        """
        if not self.alive:
            raise EngineDied
        self.asked_at_s = asyncio.get_running_loop().time()
        id_ = next(self._ids)
        answer = asyncio.get_running_loop().create_future()
        self._waiting[id_] = answer
        self._idle.clear()
        self._writer.write(packed([id_, operation, str(folder), *arguments]))
        try:
            with contextlib.suppress(ConnectionError):  # the reading task tells
                await self._writer.drain()
            return await answer
        except asyncio.CancelledError:
            if id_ in self._waiting:
                answer.cancel()
                self._writer.write(packed([id_, FORGET]))
            raise

    async def idle(self) -> None:
        """Returns when every request has been answered."""
        await self._idle.wait()

    async def stop(self) -> None:
        """Lets the process flush and end; kills it where that takes too long."""
        self.alive = False
        self._writer.close()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), _STOP_S)
        except TimeoutError:
            self.kill()
        await self._reading

    def kill(self) -> None:
        """Ends the process at once; nothing it acknowledged is lost."""
        self._process.kill()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        unframer = Unframer()
        try:
            while data := await reader.read(_READ_BYTES):
                for id_, done, *answer in unframer.feed(data):
                    self._settle(id_, done, answer)
        except ConnectionError:
            pass
        finally:
            self.alive = False
            self._writer.close()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(EngineDied())
            self._waiting.clear()
            self._idle.set()
            await asyncio.to_thread(self._process.wait)

    def _settle(self, id_: int, done: bool, answer: list[Any]) -> None:
        waiting = self._waiting.pop(id_)
        if not self._waiting:
            self._idle.set()
        if waiting.done():  # its caller was cancelled
            return
        if done:
            waiting.set_result(answer[0])
        else:
            kind, message = answer
            waiting.set_exception(ShardMissing(message) if kind == "missing" else EngineFailed(message))


@contextlib.contextmanager
def told(operation: str) -> Iterator[None]:
    """Turns what an engine says into what callers may hear; Edge's own words go to the log."""
    try:
        yield
    except EngineDied as error:
        raise DependencyUnavailable("the vector index stopped while it worked; try again", retry_after_s=1.0) from error
    except ShardMissing as error:
        raise DependencyUnavailable("the vector index was deleted while it was asked") from error
    except EngineFailed as error:
        structlog.get_logger("retrieval.edge").error("engine failed", operation=operation, error=str(error))
        raise IndexFailed("the vector index failed at this request") from error


def spawn(
    module: str,
    *arguments: str,
    keep: tuple[int, ...] = (),
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a module of this package as a process of its own; `keep` are the descriptors it inherits."""
    root = str(Path(services.__path__[0]).parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", f"services.retrieval.adapters.{module}", *arguments]
    return subprocess.Popen(command, pass_fds=keep, stdin=stdin, stdout=stdout, env={**os.environ, "PYTHONPATH": path})
