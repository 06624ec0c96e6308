"""Searches with a stage that hangs: how many are answered before their deadline. `make deadline-test`.

    python -m tests.e2e.deadlines [--calls 2000] [--seed N] [--least 0.999]

A whole mesh behind Envoy. A reranker is asked for whose endpoint takes requests and never answers; then the embedding
service, the engine of one of two collections and Redis are stopped in turn (SIGSTOP: they take calls and never
answer). Callers give each search between 100 ms and 2 s, one call at a time and 16 at a time. A call counts where its
caller had an answer that names the stage that is missing.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ragweave import Client
from ragweave.cli.console import edge_credentials
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from tests.e2e.durability import Corpus
from tests.e2e.stack import PATIENCE_S, PREFIX, Mesh
from tests.e2e.troubles import RERANKER, SMALL_GRAPHS, black_hole, engines, reranking_into, stopped, wait_indexed

COLLECTION, BESIDE = "deadlines", "beside"
STAGES = ("rerank", "embed", "store", "cache")
LEAST_S, MOST_S = 0.1, 2.0
_DOCUMENTS = 200
_BESIDE = 6
_AT_ONCE = (1, 16)


@dataclass(frozen=True)
class Call:
    """One search as its caller saw it.

    Attributes:
        code: How it ended.
        missing: Stages that the answer says are missing.
    """

    deadline_s: float
    took_s: float
    code: grpc.StatusCode
    missing: tuple[str, ...] = ()

    def answered_without(self, stage: str) -> bool:
        return self.code is grpc.StatusCode.OK and stage in self.missing


def filled(client: Client, corpus: Corpus) -> None:
    """Makes the collection that is searched, and a small one beside it."""
    documents = corpus.inline()
    for collection, some in ((COLLECTION, documents), (BESIDE, documents[:_BESIDE])):
        client.create_collection(collection)
        client.wait(client.import_texts(collection, some).name)
    wait_indexed(client, COLLECTION)


@contextmanager
def hanging(mesh: Mesh, stage: str, answering: str, indexed: str) -> Iterator[dict[str, Any]]:
    """The stage hangs inside the block, for searches of these fields.

    Args:
        answering: A collection in the engine of all.
        indexed: One in an engine of its own, which is the one that hangs.
    """
    fields: dict[str, Any] = {"collection": indexed, "cache_control": pb.SearchRequest.BYPASS}
    match stage:
        case "rerank":
            yield {**fields, "rerank": pb.SearchRequest.Rerank(model=RERANKER)}
        case "embed":
            with stopped(mesh.pid("embedding")):
                yield fields
        case "store":
            _, own = engines(mesh)
            with stopped(own):
                yield {**fields, "collection": "", "collections": [answering, indexed]}
        case "cache":
            with stopped(mesh.pid("redis")):
                _wait_without_cache(mesh, indexed)
                yield {**fields, "cache_control": pb.SearchRequest.DEFAULT}


def _wait_without_cache(mesh: Mesh, collection: str) -> None:
    """Until no cache takes part: what was heard of Redis is good for a moment, as is an open breaker."""
    asked = {"query": "words", "collection": collection}
    until = time.monotonic() + PATIENCE_S
    while (answer := mesh.rest("POST", f"{PREFIX}/search", asked)).status != 200 or (
        answer.body["cache"]["status"] != "STATUS_UNSPECIFIED"
    ):
        assert time.monotonic() < until


async def search(
    mesh: Mesh,
    corpus: Corpus,
    *,
    calls: int,
    at_once: int,
    draw: random.Random,
    fields: Mapping[str, Any],
    least_s: float = LEAST_S,
) -> list[Call]:
    """So many searches for words of the corpus, of random deadlines from `least_s` on: short ones more often."""
    words = [text.split()[:4] for text in corpus.texts.values()]
    asked = [
        (" ".join(draw.choice(words)), math.exp(draw.uniform(math.log(least_s), math.log(MOST_S))))
        for _ in range(calls)
    ]
    waiting = iter(asked)
    credentials = edge_credentials(mesh.layout)
    metadata = (("authorization", f"Bearer {mesh.token()}"),)
    made: list[Call] = []

    async def caller(service: Any) -> None:
        for words, deadline_s in waiting:
            made.append(await _called(service, pb.SearchRequest(query=words, **fields), deadline_s, metadata))

    opened = grpc.aio.secure_channel(mesh.edge, credentials) if credentials else grpc.aio.insecure_channel(mesh.edge)
    async with opened as channel:
        service: Any = RetrievalServiceStub(channel)
        await service.Search(pb.SearchRequest(query="warm", **fields), metadata=metadata, timeout=5)
        await asyncio.gather(*(caller(service) for _ in range(at_once)))
    return made


async def _called(service: Any, request: pb.SearchRequest, deadline_s: float, metadata: Any) -> Call:
    began_s = time.perf_counter()
    try:
        answer = await service.Search(request, metadata=metadata, timeout=deadline_s)
    except grpc.aio.AioRpcError as error:
        return Call(deadline_s, time.perf_counter() - began_s, error.code())
    missing = tuple(each.stage for each in answer.degraded_stages)
    return Call(deadline_s, time.perf_counter() - began_s, grpc.StatusCode.OK, missing)


def _told(stage: str, at_once: int, calls: Sequence[Call]) -> int:
    late = [each for each in calls if not each.answered_without(stage)]
    shares = sorted(each.took_s / each.deadline_s for each in calls)
    print(
        f"{stage} hangs, {at_once} at a time: {len(calls) - len(late)} of {len(calls)} answered without it before the "
        f"deadline; of the deadline used: median {shares[len(shares) // 2]:.0%}, "
        f"99th percentile {shares[int(len(shares) * 0.99)]:.0%}, most {shares[-1]:.0%}",
        flush=True,
    )
    for each in late:
        print(f"  {each.code.name} after {each.took_s:.3f} s of {each.deadline_s:.3f} s, missing: {each.missing}")
    return len(late)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--calls", type=int, default=2000)
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments.add_argument("--least", type=float, default=0.999, help="share of the calls that must be answered")
    given = arguments.parse_args()
    draw, calls = random.Random(given.seed), given.calls // (len(STAGES) * len(_AT_ONCE))
    corpus = Corpus.made("deadlines", _DOCUMENTS, given.seed)
    late = 0
    print(f"seed {given.seed}", flush=True)
    with black_hole() as hole, tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), **reranking_into(hole), **SMALL_GRAPHS)
        mesh.start()
        try:
            with mesh.client() as client:
                filled(client, corpus)
            for stage in STAGES:
                with hanging(mesh, stage, BESIDE, COLLECTION) as fields:
                    for at_once in _AT_ONCE:
                        made = asyncio.run(search(mesh, corpus, calls=calls, at_once=at_once, draw=draw, fields=fields))
                        late += _told(stage, at_once, made)
        finally:
            mesh.stop()
    total = len(STAGES) * len(_AT_ONCE) * calls
    print(f"{total - late} of {total} ({1 - late / total:.2%}) answered before their deadline")
    sys.exit(0 if total - late >= given.least * total else 1)


if __name__ == "__main__":
    main()
