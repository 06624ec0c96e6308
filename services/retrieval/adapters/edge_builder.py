"""The service's end of a build: starts the process, has it copy and build, hears how far it is."""

import asyncio
import contextlib
import os
import subprocess
from pathlib import Path

from services.retrieval.adapters.edge_engine import spawn
from services.retrieval.adapters.edge_folder import Manifest


class BuilderFailed(Exception):
    """The process that builds a graph ended early."""


class Builder:
    """The process that copies a shard and builds the copy's graph."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    async def start(cls, source: Path, target: Path, manifest: Manifest, threads: int) -> "Builder":
        """Starts the process and returns when it is ready to copy."""
        arguments = (str(source), str(target), str(manifest.dimension), manifest.distance.value, str(threads))
        process = spawn("edge_build", str(os.getpid()), *arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        builder = cls(process)
        try:
            await builder._said("ready")
        except BaseException:
            await builder.stop()
            raise
        return builder

    async def copy(self) -> None:
        """Copies the shard; it must not be written meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has ended, and does not answer
            self._process.stdin.write(b"copy\n")
            self._process.stdin.flush()
        await self._said("copied")

    async def built(self) -> None:
        """Returns when the copy has its graph and is closed."""
        await self._said("built")

    async def stop(self) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    async def _said(self, word: str) -> None:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if line.strip() != word.encode():
            raise BuilderFailed(f"ended before it was {word}")
