"""The peers' servers, each a process or two of an environment of its own, on free ports, with the chunks in it."""

import asyncio
import json
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks.peers import doors
from benchmarks.peers.doors import Door
from benchmarks.peers.exact import Exact
from benchmarks.processors import used_s
from services.embedding.adapters.onnx import ModelFiles
from tests.e2e.stack import ROOT
from tests.ports import free_port, listens

# Made by `make peers`.
ENVIRONMENTS: Final = ROOT / ".venv-peers"
CHROMA, HAYSTACK = "Chroma", "Haystack"
_SERVED: Final = Path(__file__).parent / "served"
# What loading all chunks may take.
_PATIENCE_S: Final = 600.0
_ENDS_WITHIN_S: Final = 20.0


class PeerMissing(Exception):
    """A peer's environment is not there; says which, and what makes it."""


@dataclass(frozen=True)
class Hall:
    """Where peers run.

    Attributes:
        folder: For their files and logs; holds the corpus as they read it (served/minilm.py).
    """

    folder: Path

    @classmethod
    def with_corpus(cls, folder: Path, exact: Exact) -> "Hall":
        """Writes the corpus down for them, into a new folder."""
        folder.mkdir(parents=True)
        (folder / "chunks.json").write_text(json.dumps([asdict(chunk) for chunk in exact.chunks]))
        np.save(folder / "vectors.npy", exact.vectors)
        return cls(folder)

    @asynccontextmanager
    async def chroma(self) -> AsyncIterator[Door]:
        """Its server, as `chroma run` starts it, and before it the service that embeds what is asked."""
        store, port = free_port(), free_port()
        stored = ["chroma", "run", "--host", "127.0.0.1", "--port", str(store), "--path", str(self.folder / "data")]
        served = ["uvicorn", "chroma_app:app", "--app-dir", str(_SERVED), "--port", str(port)]
        async with self._started(CHROMA, stored) as server:
            await self._once(lambda: listens(store), server)
            async with self._started(CHROMA, served, CHROMA_PORT=str(store)) as service:
                yield await self._answering(doors.peer(CHROMA, port, "/search"), server=server, service=service)

    @asynccontextmanager
    async def haystack(self) -> AsyncIterator[Door]:
        """Hayhooks with one pipeline: the model and a store of FAISS."""
        port = free_port()
        settings = {
            "HAYHOOKS_PIPELINES_DIR": str(_SERVED / "pipelines"),
            "HAYHOOKS_ADDITIONAL_PYTHON_PATH": str(_SERVED),
            "HAYHOOKS_TRACING_ENABLED": "false",  # it would keep every call for a page that nobody looks at
            "HAYSTACK_TELEMETRY_ENABLED": "false",
        }
        command = ["hayhooks", "run", "--host", "127.0.0.1", "--port", str(port)]
        async with self._started(HAYSTACK, command, **settings) as hayhooks:
            door = doors.peer(HAYSTACK, port, "/search/run", lambda answer: answer["result"])
            yield await self._answering(door, hayhooks=hayhooks)

    @asynccontextmanager
    async def _started(self, peer: str, command: Sequence[str], **settings: str) -> AsyncIterator[Process]:
        """A program of a peer's environment; it is told to end after the block, and made to."""
        model = ModelFiles.packaged()
        environment = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "OMP_NUM_THREADS": "1",  # or FAISS begins threads for each question, which then wait for each other
            "MINILM_WEIGHTS": str(model.weights),
            "MINILM_TOKENIZER": str(model.tokenizer),
            "CORPUS": str(self.folder),
            **settings,
        }
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                _program(peer, command[0]), *command[1:], cwd=self.folder, env=environment, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _ENDS_WITHIN_S)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def _answering(self, door: Door, **processes: Process) -> Door:
        """The door, once it answers."""
        await self._once(door.is_open, *processes.values())
        pids = {name: each.pid for name, each in processes.items()}
        by_name = replace(door.contestant, processor_s=lambda: {name: used_s([pid]) for name, pid in pids.items()})
        return replace(door, contestant=by_name)

    async def _once(self, ready: Callable[[], Awaitable[bool]], *processes: Process) -> None:
        """Raises RuntimeError, with the ends of all logs, where a process ends before it is ready."""
        async with asyncio.timeout(_PATIENCE_S):
            while not await ready():
                if any(each.returncode is not None for each in processes):
                    logs = "\n".join(_end(log) for log in sorted(self.folder.glob("*.log")))
                    raise RuntimeError(f"a peer does not start:\n{logs}")
                await asyncio.sleep(0.2)


def require() -> None:
    """Raises PeerMissing where an environment is not there."""
    for peer, program in ((CHROMA, "chroma"), (HAYSTACK, "hayhooks")):
        if not _program(peer, program).exists():
            raise PeerMissing(f"{peer} is not installed: `make peers` does that")


def pinned(peer: str, *packages: str) -> str:
    """Packages of a peer's environment, with their versions."""
    lines = (Path(__file__).parent / f"requirements-{peer.lower()}.txt").read_text().splitlines()
    return ", ".join(line.replace("==", " ") for line in lines if line.partition("==")[0] in packages)


def _program(peer: str, name: str) -> Path:
    return ENVIRONMENTS / peer.lower() / "bin" / name


def _end(log: Path) -> str:
    return f"{log.name}: {log.read_text(errors='replace')[-3000:]}"
