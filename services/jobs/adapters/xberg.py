"""The Extractor port over xberg: documents are opened in bounded child processes, reused until they fail or age."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import services
from services.jobs.extraction import ExtractedText, Page, Syntax
from services.jobs.extractor_child import LENGTHS
from services.jobs.fairness import Turns
from services.jobs.structure import headline_of
from services.mesh.errors import (
    DocumentTooLarge,
    DomainError,
    NoTextFound,
    UnreadableDocument,
    UnsupportedMediaType,
)
from services.mesh.media_types import SUPPORTED, media_type_of

# Raise it whenever our own part of extraction gives another text for the same bytes.
_OWN_VERSION = 2

# Working folders begin so, and with the number of the process they are for.
_FOLDERS = "ragweave-extract-"

# How long a process that has closed its socket may take to end.
_DYING_S = 1.0

_REFUSALS: Mapping[str, type[DomainError]] = {
    error.reason: error for error in (DocumentTooLarge, NoTextFound, UnreadableDocument, UnsupportedMediaType)
}


@dataclass(frozen=True, slots=True)
class ExtractionLimits:
    """What one document may cost. Address space, not resident memory: libraries alone map 250 MiB of it."""

    max_document_bytes: int = 50 << 20
    max_text_chars: int = 20_000_000
    memory_bytes: int = 1 << 30
    timeout_s: float = 60.0
    documents_per_process: int = 200
    idle_s: float = 60.0


class XbergExtractor:
    """Extracts up to `processes` documents at once, shared by tenants as `Capacity` has it.

    Each goes to a child that is started when first needed.

    A child that crashes, hangs or outgrows its memory costs the one document it was reading. It is replaced at once, so
    that the next one finds a process that is up.
    """

    def __init__(self, limits: ExtractionLimits, processes: int = 1) -> None:
        self._limits = limits
        self._turns = Turns(processes)
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()
        self._closing = False
        self.version = f"xberg-{version('xberg')}-{_OWN_VERSION}"

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        limits: ExtractionLimits = ExtractionLimits(),
        processes: int = 1,
    ) -> AsyncIterator["XbergExtractor"]:
        await asyncio.to_thread(_sweep)
        extractor = cls(limits, processes)
        try:
            yield extractor
        finally:
            extractor._closing = True
            await asyncio.gather(*(extractor._retire(child) for child in list(extractor._children)))

    async def extract(self, content: bytes, *, name: str, media_type: str = "", tenant: str = "") -> ExtractedText:
        if len(content) > self._limits.max_document_bytes:
            raise DocumentTooLarge(
                f"{name}: {len(content)} bytes are over the limit of {self._limits.max_document_bytes}"
            )
        kind = media_type_of(content, name, media_type)
        request = {
            "media_type": kind.name,
            "charset": kind.charset,
            "max_text_chars": self._limits.max_text_chars,
            "cpu_seconds": max(1, round(self._limits.timeout_s)),
        }
        async with self._turns.of(tenant):
            reply, text = await self._ask(request, content, name)
        if "reason" in reply:
            hint = f"; supported are {SUPPORTED}" if reply["reason"] == UnsupportedMediaType.reason else ""
            raise _REFUSALS[reply["reason"]](f"{name}: {reply['message']}{hint}")
        syntax = Syntax(reply["syntax"])
        return ExtractedText(
            text=text,
            mime_type=kind.name,
            syntax=syntax,
            title=reply["title"] or headline_of(text, syntax),
            pages=tuple(Page(*page) for page in reply["pages"]),
            metadata=MappingProxyType(reply["metadata"]),
        )

    async def _ask(self, request: Mapping[str, Any], content: bytes, name: str) -> tuple[dict[str, Any], str]:
        """One document through one child. Whatever ends badly ends that child: its next answer might be this one's."""
        child = self._take()
        fit = False
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                reply, text = await child.ask(request, content)
            fit = not reply["worn"] and child.answered < self._limits.documents_per_process
        except TimeoutError:
            raise UnreadableDocument(
                f"{name}: reading it takes longer than {self._limits.timeout_s:g} seconds"
            ) from None
        except (OSError, EOFError):
            raise UnreadableDocument(f"{name}: {self._death(await child.end(dying=True))}") from None
        finally:
            if fit:
                self._rest(child)
            else:
                await asyncio.shield(self._replace(child))
        if reply.get("reason") == "MEMORY":
            raise UnreadableDocument(f"{name}: reading it takes more than {self._megabytes} MiB of memory")
        return reply, text

    def _take(self) -> "_Child":
        while self._idle:
            child = self._idle.pop()
            if child.wake():
                return child
        return self._started()

    def _started(self, *, warm: bool = False) -> "_Child":
        child = _Child(self._limits.memory_bytes, warm=warm)
        self._children.add(child)
        return child

    def _rest(self, child: "_Child") -> None:
        self._idle.append(child)
        child.retire_after(self._limits.idle_s, self._retire)

    async def _replace(self, child: "_Child") -> None:
        await self._retire(child)
        if not self._closing:
            self._rest(self._started(warm=True))

    async def _retire(self, child: "_Child") -> None:
        if child in self._idle:
            self._idle.remove(child)
        await child.end()
        self._children.discard(child)

    @property
    def _megabytes(self) -> int:
        return self._limits.memory_bytes >> 20

    def _death(self, code: int) -> str:
        """Why a child died, for people."""
        if code == -signal.SIGXCPU:
            return f"reading it takes more than {self._limits.timeout_s:g} seconds of processor time"
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"the extractor crashed on it ({how}); it is corrupt, or needs more than {self._megabytes} MiB of memory"


def _sweep() -> None:
    """Removes the folders of processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDERS}*-*"):
        owner = folder.name.removeprefix(_FOLDERS).partition("-")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            shutil.rmtree(folder, ignore_errors=True)


class _Child:
    """One extractor process, spoken to over a socket pair; its working folder is empty and goes with it."""

    def __init__(self, memory_bytes: int, *, warm: bool) -> None:
        self.answered = 0
        self._folder = tempfile.TemporaryDirectory(prefix=f"{_FOLDERS}{os.getpid()}-")
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            # Runs on the loop's thread by intent: the child asks to die with the thread that started it.
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                [
                    *(sys.executable, "-sPB", "-m", "services.jobs.extractor_child"),
                    *map(str, (memory_bytes, os.getpid(), int(warm))),
                ],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._folder.name,
                env=_environment(self._folder.name),
            )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[int] | None = None

    async def ask(self, request: Mapping[str, Any], content: bytes) -> tuple[dict[str, Any], str]:
        """One request, one reply.

        Raises:
            OSError, EOFError: the child died.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(sock=self._socket, limit=1 << 20)
        reader, writer = self._streams
        header = json.dumps(request).encode()
        writer.write(LENGTHS.pack(len(header), len(content)) + header)
        writer.write(content)
        await writer.drain()
        header_size, body_size = LENGTHS.unpack(await reader.readexactly(LENGTHS.size))
        reply: dict[str, Any] = json.loads(await reader.readexactly(header_size))
        text = (await reader.readexactly(body_size)).decode()
        self.answered += 1
        return reply, text

    def retire_after(self, idle_s: float, retire: "Callable[[_Child], Coroutine[Any, Any, None]]") -> None:
        """Left idle so long, be retired."""

        def late() -> None:
            self._retiring = asyncio.ensure_future(retire(self))

        self._timer = asyncio.get_running_loop().call_later(idle_s, late)

    def wake(self) -> bool:
        """Stop waiting for retirement; False if it has begun, or the process died meanwhile."""
        self._stop_timer()
        return self._ending is None and self._process.poll() is None

    def _stop_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    async def end(self, *, dying: bool = False) -> int:
        """Kill the process, release what it held, and return its exit code; a second call returns the same.

        Args:
            dying: It has closed its socket: it may take a moment to end by itself, and then tells of what.
        """
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(dying))
        return await asyncio.shield(self._ending)

    async def _end(self, dying: bool) -> int:
        self._stop_timer()
        if dying:
            with suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self._process.wait, _DYING_S)
        self._process.kill()  # changes nothing for one that is dead: its own exit code stays
        code = await asyncio.to_thread(self._process.wait)
        if self._streams:
            _, writer = self._streams
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        else:
            self._socket.close()
        await asyncio.to_thread(self._folder.cleanup)
        return code


def _environment(folder: str) -> dict[str, str]:
    """Nothing of ours: no secrets, no proxies, no home. One arena, one thread a pool: a small address space."""
    return {
        "PYTHONPATH": str(Path(services.__file__).parent.parent),
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": folder,
        "TMPDIR": folder,
        "MALLOC_ARENA_MAX": "1",
        "TOKIO_WORKER_THREADS": "1",
        "RAYON_NUM_THREADS": "1",
    }
