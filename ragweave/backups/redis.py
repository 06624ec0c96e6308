"""What the embedded Redis keeps: its own snapshot (RDB) as a replica gets it, and as files that a server starts from.

A server that appends to a log does not look at a snapshot when it starts, unless its log's own manifest names that as
where the log begins: so a snapshot is restored as the base of a log.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from ragweave.backups.errors import BackupError

FOLDER: Final = "appendonlydir"
_NAME: Final = "appendonly.aof"
BASE: Final = f"{_NAME}.1.base.rdb"
_MANIFEST: Final = f"{_NAME}.manifest"
_MARK_BYTES: Final = 40
_READ_BYTES: Final = 2**18
# Writes wait meanwhile.
_ANSWER_S: Final = 5.0
_SILENCE_S: Final = 60.0


class Snapshot:
    """A snapshot that the server has begun to send: it is of the instant before `snapshot_of` gave it."""

    def __init__(self, reader: asyncio.StreamReader, mark: bytes) -> None:
        self._reader = reader
        self._mark = mark

    async def write(self, target: Path) -> None:
        """Writes it to a new file. Raises BackupError where the server stops sending."""
        # The last bytes may be the mark that ends it.
        kept = b""
        with await asyncio.to_thread(target.open, "xb") as file:
            while not kept.endswith(self._mark):
                async with asyncio.timeout(_SILENCE_S):
                    piece = await self._reader.read(_READ_BYTES)
                if not piece:
                    raise BackupError("Redis ended before its snapshot did")
                held = kept + piece
                await asyncio.to_thread(file.write, held[:-_MARK_BYTES])
                kept = held[-_MARK_BYTES:]


@asynccontextmanager
async def snapshot_of(socket: Path) -> AsyncIterator[Snapshot]:
    """The server's snapshot as a replica gets it; nothing is written on its side.

    Raises:
        BackupError: The server does not answer, or does not send its snapshots.
    """
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(str(socket))
    except (OSError, TimeoutError):
        raise BackupError(f"Redis does not answer at {socket}") from None
    try:
        async with asyncio.timeout(_ANSWER_S):
            # Sent as it is made, and never as a file of the server's, which would keep what is deleted since.
            for line in (b"REPLCONF capa eof", b"REPLCONF rdb-only 1"):
                writer.write(line + b"\r\n")
                if await reader.readline() != b"+OK\r\n":
                    raise BackupError("Redis does not send snapshots (REPLCONF)")
            writer.write(b"SYNC\r\n")
            while (line := await reader.readline()) == b"\n":  # it is about to
                pass
        if not line.startswith(b"$EOF:"):
            raise BackupError(f"Redis does not send snapshots ({line[:80]!r})")
        yield Snapshot(reader, line.strip().removeprefix(b"$EOF:"))
    except TimeoutError:
        raise BackupError("Redis was silent for too long; does it rewrite its log? Try again") from None
    finally:
        writer.close()


async def revisions(socket: Path, uids: Sequence[str]) -> list[int]:
    """How far the index of each collection has come."""
    if not uids:
        return []
    reader, writer = await asyncio.open_unix_connection(str(socket))
    try:
        writer.write(command("MGET", *map(_revision_key, uids)))
        async with asyncio.timeout(_ANSWER_S):
            await reader.readline()
            found = []
            for _ in uids:
                length = int((await reader.readline())[1:])
                found.append(0 if length < 0 else int((await reader.readexactly(length + 2)).strip()))
        return found
    finally:
        writer.close()


def write_base(folder: Path) -> Path:
    """Makes the folder of a log that begins with a snapshot: where that is to be written."""
    log = folder / FOLDER
    log.mkdir(mode=0o700)
    _write_manifest(log, [f"file {BASE} seq 1 type b"])
    return log / BASE


def raise_revisions(folder: Path, uids: Sequence[str], by: int) -> None:
    """Adds to a log that every index's revision grows by so much when the server starts."""
    log = folder / FOLDER
    lines = (log / _MANIFEST).read_text().splitlines()
    last = max((int(line.split()[3]) for line in lines if line.split()[-1] == "i"), default=0)
    added = f"{_NAME}.{last + 1}.incr.aof"
    commands = [command("SELECT", "0"), *(command("INCRBY", _revision_key(uid), str(by)) for uid in uids)]
    (log / added).write_bytes(b"".join(commands))
    _write_manifest(log, [*lines, f"file {added} seq {last + 1} type i"])


def command(*words: str) -> bytes:
    """A command as Redis reads it (RESP)."""
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


def _write_manifest(log: Path, lines: Sequence[str]) -> None:
    part = log / f"temp-{_MANIFEST}"
    part.write_text("".join(f"{line}\n" for line in lines))
    part.rename(log / _MANIFEST)


def _revision_key(uid: str) -> str:
    return f"ragweave:index:{uid}:revision"
