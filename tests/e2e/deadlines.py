"""Searches with a stage that hangs: how many are answered before their deadline. `make deadline-test`.

    python -m tests.e2e.deadlines [--calls 2000] [--seed N] [--least 0.999]

A whole mesh behind Envoy. A reranker is asked for whose endpoint takes requests and never answers; then the embedding
service is stopped (SIGSTOP: it takes calls and never answers). Callers give each search between 100 ms and 2 s, one
call at a time and 16 at a time. A call counts where its caller had an answer that names the stage that is missing.
"""

import argparse
import asyncio
import math
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from ragweave import Client
from ragweave.cli.console import edge_credentials
from ragweave.v1 import search_pb2 as pb
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from tests.e2e.durability import Corpus
from tests.e2e.stack import Mesh
from tests.e2e.troubles import RERANKER, black_hole, reranking_into, stopped

COLLECTION = "deadlines"
LEAST_S, MOST_S = 0.1, 2.0
_DOCUMENTS = 200
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
    """Makes the collection that is searched."""
    client.create_collection(COLLECTION)
    client.wait(client.import_texts(COLLECTION, corpus.inline()).name)


async def search(
    mesh: Mesh,
    corpus: Corpus,
    collection: str,
    *,
    calls: int,
    at_once: int,
    draw: random.Random,
    fields: Mapping[str, Any],
) -> list[Call]:
    """So many searches for words of the corpus, of random deadlines: short ones more often."""
    words = [text.split()[:4] for text in corpus.texts.values()]
    asked = [
        (" ".join(draw.choice(words)), math.exp(draw.uniform(math.log(LEAST_S), math.log(MOST_S))))
        for _ in range(calls)
    ]
    waiting = iter(asked)
    credentials = edge_credentials(mesh.layout)
    metadata = (("authorization", f"Bearer {mesh.token()}"),)
    made: list[Call] = []

    async def caller(service: Any) -> None:
        for words, deadline_s in waiting:
            request = pb.SearchRequest(
                collection=collection, query=words, cache_control=pb.SearchRequest.BYPASS, **fields
            )
            made.append(await _called(service, request, deadline_s, metadata))

    opened = grpc.aio.secure_channel(mesh.edge, credentials) if credentials else grpc.aio.insecure_channel(mesh.edge)
    async with opened as channel:
        service: Any = RetrievalServiceStub(channel)
        await service.Search(pb.SearchRequest(collection=collection, query="warm"), metadata=metadata, timeout=5)
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


def _told(name: str, stage: str, at_once: int, calls: Sequence[Call]) -> int:
    late = [each for each in calls if not each.answered_without(stage)]
    shares = sorted(each.took_s / each.deadline_s for each in calls)
    print(
        f"{name}, {at_once} at a time: {len(calls) - len(late)} of {len(calls)} answered without {stage!r} before the "
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
    draw, calls = random.Random(given.seed), given.calls // (2 * len(_AT_ONCE))
    corpus = Corpus.made("deadlines", _DOCUMENTS, given.seed)
    late = 0
    print(f"seed {given.seed}", flush=True)
    with black_hole() as hole, tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder), **reranking_into(hole))
        mesh.start()
        try:
            with mesh.client() as client:
                filled(client, corpus)
            rerank = pb.SearchRequest.Rerank(model=RERANKER)
            for at_once in _AT_ONCE:
                made = asyncio.run(
                    search(mesh, corpus, COLLECTION, calls=calls, at_once=at_once, draw=draw, fields={"rerank": rerank})
                )
                late += _told("reranker hangs", "rerank", at_once, made)
            with stopped(mesh.pid("embedding")):
                for at_once in _AT_ONCE:
                    made = asyncio.run(
                        search(mesh, corpus, COLLECTION, calls=calls, at_once=at_once, draw=draw, fields={})
                    )
                    late += _told("embedding hangs", "embed", at_once, made)
        finally:
            mesh.stop()
    total = 2 * len(_AT_ONCE) * calls
    print(f"{total - late} of {total} ({1 - late / total:.2%}) answered before their deadline")
    sys.exit(0 if total - late >= given.least * total else 1)


if __name__ == "__main__":
    main()
