"""The machine: room on the disk, memory, open files, and whether what the mesh needs is installed."""

import os
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from ragweave.findings import Finding, error, ok, warning
from ragweave.local.layout import BadSetting, Layout
from ragweave.local.processes import processes

_PYTHON = (3, 11)
_GIB = 2**30
_LOW_DISK_BYTES, _NO_DISK_BYTES = 2 * _GIB, _GIB // 4
# What an idle mesh takes, and what it may not start with.
_LOW_MEMORY_BYTES, _NO_MEMORY_BYTES = _GIB, _GIB // 4
# Envoy alone may have 10,000 clients; a service has a few hundred files open.
_LOW_FILES, _FEW_FILES = 4096, 1024


def examine(here: Layout) -> Iterator[Finding]:
    yield from software(here)
    yield from disk(here)
    yield from memory()
    yield from files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    yield from folder(here)


def software(here: Layout, version: tuple[int, int] = sys.version_info[:2]) -> Iterator[Finding]:
    name = f"Python {version[0]}.{version[1]}"
    if version < _PYTHON:
        mend = "make the environment anew: `make clean install PYTHON=python3.11`"
        yield error(f"this is {name}, and 3.11 or later is needed", "nothing starts", mend)
    else:
        yield ok(name)
    try:
        processes(here)
        yield ok("Envoy and a Redis-protocol server are installed")
    except BadSetting as missing:
        yield error(str(missing), "the mesh cannot start", "`make install`, or set RAGWEAVE_REDIS_URL to a store")


def disk(here: Layout) -> Iterator[Finding]:
    """Of the file system that the data folder is on, or would be."""
    existing = next(path for path in (here.data, *here.data.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    what = f"{free / _GIB:.1f} GiB are free for {here.data}"
    mend = f"make room there, or set RAGWEAVE_DATA_DIR to a folder with more; `du -sh {here.data}/*` shows what it is"
    if free < _NO_DISK_BYTES:
        yield error(what, "writes fail, the store's first", mend)
    elif free < _LOW_DISK_BYTES:
        yield warning(what, "indexes are built beside the old ones, and a full disk refuses all writes", mend)
    else:
        yield ok(what)


def memory(meminfo: Path = Path("/proc/meminfo")) -> Iterator[Finding]:
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return  # no Linux
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    if free is None:
        return
    what, mend = f"{free / _GIB:.1f} GiB of memory are available", "end what takes it (`ps aux --sort -rss | head`)"
    if free < _NO_MEMORY_BYTES:
        yield error(what, "the kernel is about to kill processes, of the mesh too", mend)
    elif free < _LOW_MEMORY_BYTES:
        yield warning(what, "a mesh takes about 1 GiB, and more under load", mend)
    else:
        yield ok(what)


def files(allowed: int) -> Iterator[Finding]:
    """Open files that a process started here may have."""
    if allowed == resource.RLIM_INFINITY or allowed >= _LOW_FILES:
        yield ok(f"{'any number of' if allowed == resource.RLIM_INFINITY else f'{allowed:,}'} files may be open")
        return
    mend = "`ulimit -n 65536` in the shell that starts the mesh, or LimitNOFILE=65536 in its unit"
    found = error if allowed < _FEW_FILES else warning
    yield found(f"a process may have {allowed} files open", "connections are refused once they are used up", mend)


def folder(here: Layout) -> Iterator[Finding]:
    """Whether the mesh may write where it keeps everything, and is the one that wrote there."""
    if not here.data.exists():
        return
    foreign = [
        path for path in (here.data, here.keys, here.logs, here.data / "redis", here.state_file.parent) if _bars(path)
    ]
    for path in foreign:
        owner = path.stat().st_uid
        yield error(
            f"{path}, of user {owner}, cannot be written by user {os.getuid()}, who runs this",
            "what is kept there cannot be changed; most often the mesh was once started by somebody else",
            f"`sudo chown -R {os.getuid()} {here.data}`",
        )


def _bars(path: Path) -> bool:
    return path.exists() and not os.access(path, os.R_OK | os.W_OK | os.X_OK)
