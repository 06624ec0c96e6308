"""Ingest of the mesh against the bare model on the same chunks of 256 tokens."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.in_process import MAX_TOKENS, BareModel, Embeds, FusedModel
from benchmarks.plan import Plan
from benchmarks.results import Bar, Outcome, Table
from benchmarks.rig import Rig
from ragweave.cli.demo import documents
from ragweave.v1 import chunk_pb2, job_pb2
from services.embedding.ports import InputType
from tests.e2e.durability import chunks_of

# Of texts of this length about 12 chunks are made.
_CHARACTERS: Final = 13_000
_LEAST_CHUNKS: Final = 10
# Runs of the model at a time, and threads of each, that make sense on two cores.
_LAYOUTS: Final = ((1, 2), (2, 1))
_ABOUT: Final = (
    f"Documents of at least {_LEAST_CHUNKS} chunks of {MAX_TOKENS} tokens, from the request at the edge to the job's "
    "end, against tokenizer and model alone on the texts that the mesh embedded, sorted by length, in the faster of "
    "two layouts: one run of the model at a time on two threads, two on one each. It is the published file on "
    "onnxruntime as it comes; what it does by the graph that the mesh runs (ADR 17) is told beside it. No text was "
    "embedded before."
)


@dataclass(frozen=True)
class Round:
    """One corpus through the mesh, then its chunks through the model.

    Attributes:
        bare_per_s: Chunks a second, by layout.
        fused_per_s: The same by the mesh's graph, two at a time on one thread.
        cpu_ms: Processor time that a chunk took in the mesh, by process.
    """

    chunks: int
    mesh_per_s: float
    bare_per_s: Mapping[str, float]
    fused_per_s: float
    cpu_ms: Mapping[str, float]

    @property
    def ratio(self) -> float:
        return self.mesh_per_s / max(self.bare_per_s.values())


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Imports, each compared with the model alone."""
    rounds = []
    for number in range(1, plan.rounds + 1):
        rounds.append(await asyncio.to_thread(_round, rig, number))
        done = rounds[-1]
        print(f"ingest, round {number} of {plan.rounds}: {done.mesh_per_s:.1f} chunks/s, {done.ratio:.1%}", flush=True)
    return Outcome(_ABOUT, bars=[bar(rounds)], tables=[_compared(rounds), _processors(rounds)])


def bar(rounds: Sequence[Round]) -> Bar:
    """What is asked of ingest, and what it came to."""
    ratio = statistics.median(each.ratio for each in rounds)
    asked = f"ingest, chunks of {MAX_TOKENS} tokens, {_LEAST_CHUNKS} or more a document: 95 % of the bare model's rate"
    return Bar(5, asked, f"{ratio:.1%}", ratio >= 0.95)


def corpus(number: int) -> list[dict[str, Any]]:
    """Long documents of the demo's prose; every paragraph says the number, so that no chunk was embedded before."""
    paragraphs = (part.strip() for topic in documents() for part in topic["text"].split("\n\n"))
    made: list[dict[str, Any]] = []
    parts: list[str] = []
    for part in paragraphs:
        parts.append(f"({number}) {part}")
        if sum(map(len, parts)) >= _CHARACTERS:
            made.append({"document_id": f"long-{len(made)}", "text": "\n\n".join(parts)})
            parts = []
    return made  # what is left over is too short


def _round(rig: Rig, number: int) -> Round:
    collection, texts = f"ingest-{number}", corpus(number)[: rig.documents]
    with rig.client() as client:
        client.create_collection(collection, chunking={"strategy": "FIXED", "max_tokens": MAX_TOKENS})
        used_s, began_s = rig.processor_s(), time.perf_counter()
        ended = client.wait(client.import_texts(collection, texts).name)
        seconds = time.perf_counter() - began_s
        if ended.state != job_pb2.Job.SUCCEEDED:
            raise RuntimeError(f"not imported: {ended}")
        cpu_ms = {
            process: (s - used_s.get(process, 0.0)) / ended.progress.chunks * 1e3
            for process, s in rig.processor_s().items()
        }
        chunks = [
            list(chunks_of(client, f"collections/{collection}/documents/{each['document_id']}")) for each in texts
        ]
    _check(chunks)
    embedded = [f"{each.context}\n{each.text}" if each.context else each.text for each in itertools.chain(*chunks)]
    bare = {_layout(runs, threads): _per_s(BareModel(threads), embedded, runs) for runs, threads in _LAYOUTS}
    fused_per_s = _per_s(FusedModel(InputType.DOCUMENT), embedded, 2)
    return Round(len(embedded), len(embedded) / seconds, bare, fused_per_s, cpu_ms)


def _check(documents: Sequence[Sequence[chunk_pb2.Chunk]]) -> None:
    """The corpus is what it is said to be."""
    fewest = min(map(len, documents))
    whole = statistics.median(chunk.token_count for each in documents for chunk in each)
    if fewest < _LEAST_CHUNKS or whole < 0.95 * MAX_TOKENS:
        raise RuntimeError(f"a document has {fewest} chunks, and half of all chunks are of {whole} tokens or fewer")


def _per_s(model: Embeds, texts: Sequence[str], runs: int) -> float:
    """Texts a second of tokenizer and model alone."""
    ordered = sorted(texts, key=len)
    model.embed(ordered[-1])
    with ThreadPoolExecutor(runs) as pool:
        began_s = time.perf_counter()
        list(pool.map(model.embed, ordered))
        return len(texts) / (time.perf_counter() - began_s)


def _layout(runs: int, threads: int) -> str:
    return f"bare, {runs} at a time on {threads} thread{'s' * (threads > 1)}"


def _compared(rounds: Sequence[Round]) -> Table:
    layouts = list(rounds[0].bare_per_s)
    rows = [
        [
            str(number),
            str(each.chunks),
            f"{each.mesh_per_s:.1f}",
            *(f"{each.bare_per_s[layout]:.1f}" for layout in layouts),
            f"{each.fused_per_s:.1f}",
            f"{each.ratio:.1%}",
        ]
        for number, each in enumerate(rounds, 1)
    ]
    return Table(
        "Chunks a second",
        ["round", "chunks", "mesh", *layouts, "bare, as the mesh runs it", "mesh of the faster published"],
        rows,
    )


def _processors(rounds: Sequence[Round]) -> Table:
    ms = {name: statistics.median(each.cpu_ms.get(name, 0.0) for each in rounds) for name in rounds[-1].cpu_ms}
    named = sorted((name for name in ms if ms[name] >= 0.1), key=lambda name: -ms[name])
    title = "Milliseconds of processor time that a chunk takes in the mesh, medians"
    return Table(title, [*named, "all"], [[*(f"{ms[name]:.1f}" for name in named), f"{sum(ms.values()):.1f}"]])
