"""Builds the search graph of a shard on a copy of it, in a process of its own.

Run as `python -m services.retrieval.adapters.edge_build PARENT_PID SOURCE TARGET DIMENSION DISTANCE THREADS`. Prints
"ready", waits for a line, prints "copied" once SOURCE may be written again, and "built" at the end.
"""

import os
import sys
from pathlib import Path
from typing import Final

import qdrant_edge as edge

from services.retrieval.adapters.edge_child import config_of, die_with_parent

_NICE: Final = 5
_COPIED_AT_A_TIME: Final = 2**22


def copy_tree(source: Path, target: Path) -> None:
    """Copies a folder; holes in files stay holes (a write-ahead log is 32 MiB of them)."""
    target.mkdir()
    for entry in os.scandir(source):
        if entry.is_dir():
            copy_tree(Path(entry.path), target / entry.name)
        else:
            _copy_file(entry.path, target / entry.name)


def _copy_file(source: str, target: Path) -> None:
    with open(source, "rb", buffering=0) as read, target.open("xb", buffering=0) as written:
        size, at = os.fstat(read.fileno()).st_size, 0
        os.truncate(written.fileno(), size)
        while at < size:
            try:
                at = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError:  # only a hole is left
                return
            end = os.lseek(read.fileno(), at, os.SEEK_HOLE)
            os.lseek(written.fileno(), at, os.SEEK_SET)
            while at < end:
                at += os.sendfile(written.fileno(), read.fileno(), at, min(_COPIED_AT_A_TIME, end - at))


def main() -> None:
    parent, source, target, dimension, distance, threads = sys.argv[1:7]
    die_with_parent(int(parent))
    print("ready", flush=True)
    if not sys.stdin.readline():
        return
    copy_tree(Path(source), Path(target))
    print("copied", flush=True)
    os.nice(_NICE)
    shard = edge.EdgeShard.load(target, config_of(int(dimension), distance, int(threads)))
    shard.optimize()
    shard.flush()
    shard.close()
    print("built", flush=True)


if __name__ == "__main__":
    main()
