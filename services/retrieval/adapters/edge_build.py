"""Builds the search graph of a shard on a copy of it, in a process of its own.

Run as `python -m services.retrieval.adapters.edge_build PARENT_PID SOURCE TARGET DIMENSION DISTANCE THREADS`. Prints
"ready", waits for a line, prints "copied" once SOURCE may be written again, and "built" at the end.
"""

import os
import sys
from pathlib import Path
from typing import Final

import qdrant_edge as edge

from ragweave.copying import copy_tree
from services.retrieval.adapters.edge_child import config_of, die_with_parent

_NICE: Final = 5


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
