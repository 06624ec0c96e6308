"""How an index grows: `python -m benchmarks.scale [--chunks 1000,10000,100000,1000000] [--only edge,qdrant,mesh]`.

Each store of vectors is opened as retrieval opens it and filled with synthetic chunks (benchmarks/scale_corpus.py) from
size to size; at each, what searching, writing, building graphs, memory, disk, opening and copying take is measured.
`qdrant` needs a server: RAGWEAVE_QDRANT_URL. `mesh` is the whole mesh, filled through retrieval as jobs do it. What was
found goes into scaling.json and between the marks of scaling.md.
"""

import argparse
import asyncio
import json
import os
import shlex
import sys
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from qdrant_client import AsyncQdrantClient, models

from benchmarks import scale_page
from benchmarks.results import Run
from benchmarks.scale_corpus import CHUNKS_A_DOCUMENT, Corpus
from benchmarks.scale_edge import Copied, Memory, Peak, copied, disk_bytes, engines_used_s, memory_of_engines, opened_s
from benchmarks.scale_feed import Feed
from benchmarks.scale_mesh import GrowingMesh, Whole
from benchmarks.scale_store import INDEX, GrowingIndex, Growth, Searched, Spread, beside
from services.mesh.settings import read
from services.retrieval.__main__ import open_store
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.edge_graphs import points_that_start_a_build
from services.retrieval.ports import VectorStore
from services.retrieval.settings import Settings
from tests.e2e.stack import ROOT, Mesh

_KINDS: Final = ("edge", "qdrant", "mesh")
# The mesh is filled through its services, which takes longer.
_MOST_IN_MESH: Final = 100_000


@dataclass(frozen=True)
class Kept:
    """What an index takes besides time; of the embedded store, whose processes and files are this machine's.

    Attributes:
        memory: Of the engines after the searches.
        peak: Of the engines and of what builds graphs, while it grew.
        disk: By what it holds, in bytes.
        opened_s: From opening the closed store to the first answer.
    """

    memory: Memory
    peak: Memory
    disk: Mapping[str, int]
    copied: Copied
    opened_s: float


@dataclass(frozen=True)
class Size:
    """All that was measured of a store at a size.

    Attributes:
        at_once_per_s: Hybrid searches a second, of several callers; `at_once` is what they take.
    """

    chunks: int
    growth: Growth
    searched: Sequence[Searched]
    at_once_per_s: float
    at_once: Spread | None
    kept: Kept | None = None


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        sizes: In chunks, ascending.
        queries: Of each kind.
        budget_s: That so many searches may take before the rest is left out.
        folder: Where stores are; as large as the last size.
    """

    sizes: Sequence[int]
    queries: int
    budget_s: float
    folder: Path


async def edge_sizes(plan: Plan, corpus: Corpus, feed: Feed) -> AsyncGenerator[Size, None]:
    """The embedded store at each size."""
    folder = plan.folder / "index"
    settings = read(Settings).model_copy(update={"store": "edge", "index_dir": folder})
    documents = 0
    for chunks in plan.sizes:
        async with open_store(settings) as store:
            assert isinstance(store, EdgeVectorStore)
            index = GrowingIndex(
                store,
                corpus,
                feed,
                documents=documents,
                settled=partial(_built, store, settings.build_threshold),
                used_s=engines_used_s,
            )
            peak = Peak()
            async with beside(peak.watch()):
                growth = await index.grow(chunks)
            size = await _searched(index, chunks, growth, plan)
            memory, disk = memory_of_engines(), disk_bytes(folder)
            copy = await copied(store, plan.folder / "copy")
            documents = index.documents
        opened = await opened_s(open_store(settings), next(corpus.queries(1, documents)))
        yield replace(size, kept=Kept(memory, peak.most, disk, copy, opened))


async def qdrant_sizes(plan: Plan, corpus: Corpus, feed: Feed, url: str) -> AsyncGenerator[Size, None]:
    """A collection on the server at `url` at each size; it is dropped in the end."""
    prefix = f"scale-{uuid4().hex}-"
    given = {"store": "qdrant", "qdrant_url": url, "qdrant_prefix": prefix}
    client = AsyncQdrantClient(url=url)
    async with open_store(read(Settings).model_copy(update=given)) as store:
        try:
            documents = 0
            for chunks in plan.sizes:
                index = GrowingIndex(
                    store, corpus, feed, documents=documents, settled=partial(_green, client, f"{prefix}{INDEX}")
                )
                growth = await index.grow(chunks)
                documents = index.documents
                yield await _searched(index, chunks, growth, plan)
        finally:
            await store.drop(INDEX)
            await client.close()


async def mesh_sizes(plan: Plan, corpus: Corpus, feed: Feed) -> AsyncGenerator[Whole, None]:
    """The whole mesh at each size that can be filled through it in minutes."""
    mesh = Mesh(plan.folder / "mesh")
    mesh.start()
    try:
        growing = GrowingMesh(mesh, corpus, feed, build_threshold=read(Settings).build_threshold)
        for chunks in plan.sizes:
            if chunks <= _MOST_IN_MESH:
                yield await growing.grow(chunks, plan.queries)
    finally:
        mesh.stop()


async def _searched(index: GrowingIndex, chunks: int, growth: Growth, plan: Plan) -> Size:
    searched = await index.searched(plan.queries, plan.budget_s)
    per_s, taken = await index.at_once(plan.queries, plan.budget_s)
    return Size(chunks, growth, searched, per_s, taken)


async def _built(store: VectorStore, threshold: int) -> bool:
    """Whether fewer chunks have no graph than start the building of one."""
    stats = await store.stats(INDEX)
    return stats.chunks - stats.indexed_chunks < points_that_start_a_build(threshold, stats.indexed_chunks)


async def _green(client: AsyncQdrantClient, name: str) -> bool:
    """Whether a server has nothing left to optimise in a collection."""
    return (await client.get_collection(name)).status is models.CollectionStatus.GREEN


def main() -> None:
    """Measures kind by kind, and writes down what each came to as soon as it ends."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scale", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--chunks", default="1000,10000,100000", help="sizes, separated by commas")
    parser.add_argument("--only", default=",".join(_KINDS), help="what is measured, separated by commas")
    parser.add_argument("--queries", type=int, default=300, help="of each kind at each size")
    parser.add_argument("--budget-s", type=float, default=20, help="that the searches of one kind may take")
    parser.add_argument("--seed", type=int, default=0, help="of the chunks and the questions")
    parser.add_argument("--folder", type=Path, help="where stores are made and deleted; 20 KB a chunk; else in /tmp")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where scaling.md and scaling.json are")
    given = parser.parse_args()
    sizes = sorted({int(each) // CHUNKS_A_DOCUMENT * CHUNKS_A_DOCUMENT for each in given.chunks.split(",")})
    kinds = [each.strip() for each in given.only.split(",")]
    if unknown := set(kinds) - set(_KINDS):
        parser.error(f"nothing is called {', '.join(sorted(unknown))}; there are {', '.join(_KINDS)}")
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, Feed.open(given.seed) as feed:
        plan = Plan(sizes, given.queries, given.budget_s, Path(folder))
        asyncio.run(_measure(kinds, plan, Corpus(given.seed), feed, given.out))


async def _measure(kinds: Sequence[str], plan: Plan, corpus: Corpus, feed: Feed, out: Path) -> None:
    run = Run(shlex.join(["python", "-m", "benchmarks.scale", *sys.argv[1:]]))
    url = os.environ.get("RAGWEAVE_QDRANT_URL", "")
    for kind in _KINDS:
        if kind not in kinds:
            continue
        if kind == "qdrant" and not url:
            print("qdrant: skipped: no server; RAGWEAVE_QDRANT_URL names one (a stand-in's figures mean nothing)")
            continue
        sizes: list[Any] = []
        measuring: AsyncGenerator[Any, None]
        match kind:
            case "edge":
                measuring = edge_sizes(plan, corpus, feed)
            case "qdrant":
                measuring = qdrant_sizes(plan, corpus, feed, url)
            case _:
                measuring = mesh_sizes(plan, corpus, feed)
        async with aclosing(measuring):
            async for size in measuring:
                sizes.append(size)
                print(json.dumps(asdict(size)), flush=True)
                scale_page.record(out, kind, run, sizes)


if __name__ == "__main__":
    main()
