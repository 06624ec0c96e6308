"""What a search takes that nothing has cached: `python -m benchmarks.search [--rounds N] [--queries N]`.

One mesh with the demo's corpus. Each kind of search is asked with words that were never asked before, one call at a
time and 16 at a time, in turns; the result cache is passed by. `embed` is such queries embedded alone, by the service's
own port: what no search with vectors can be faster than.
"""

import argparse
import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc
import httpx

from ragweave.cli.demo import documents
from ragweave.v1 import embedding_service_pb2, job_pb2, search_pb2
from ragweave.v1.embedding_service_pb2_grpc import EmbeddingServiceStub
from ragweave.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from tests.e2e.stack import PREFIX, Mesh

COLLECTION: Final = "topics"
_KINDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "sparse": {"mode": search_pb2.SearchRequest.SPARSE},
    "dense": {"mode": search_pb2.SearchRequest.DENSE},
    "hybrid": {},
    "hybrid, least score": {"min_score": 0.2},
    "hybrid, highlights": {"highlight": True},
}

Ask = Callable[[str], Awaitable[Any]]


def main() -> None:
    """Prints a table: median and 95th percentile of each kind, in milliseconds."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--queries", type=int, default=200, help="of each kind in each round")
    arguments.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = arguments.parse_args()
    print(f"seed {given.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        mesh = Mesh(Path(folder))
        mesh.start()
        try:
            with mesh.client() as client:
                client.create_collection(COLLECTION)
                ended = client.wait(client.import_texts(COLLECTION, documents()).name)
                assert ended.state == job_pb2.Job.SUCCEEDED, ended
            asyncio.run(_measure(mesh, given))
        finally:
            mesh.stop()


async def _measure(mesh: Mesh, given: argparse.Namespace) -> None:
    draw = random.Random(given.seed)  # noqa: S311  (picks words, guards nothing)
    words = sorted({word for each in documents() for word in re.findall(r"[a-z]{4,}", each["text"])})
    for callers in (1, 16):
        taken: dict[str, list[float]] = {}
        async for kinds in _kinds(mesh, given.rounds):
            for kind, ask in kinds.items():
                queries = [" ".join(draw.sample(words, 6)) for _ in range(given.queries)]
                taken.setdefault(kind, []).extend(await _ms_each(ask, queries, callers))
        print(f"{callers} at a time" + " " * 20 + "p50 ms   p95 ms")
        for kind, each in taken.items():
            print(f"  {kind:<28}{statistics.median(each):8.2f} {statistics.quantiles(each, n=20)[-1]:8.2f}")


async def _kinds(mesh: Mesh, rounds: int) -> AsyncIterator[dict[str, Ask]]:
    """Each kind of question, once a round."""
    signed = [("authorization", f"Bearer {mesh.token()}")]
    direct, embedding = (mesh.layout.address(each) for each in ("retrieval", "embedding"))
    async with (
        grpc.aio.insecure_channel(direct) as retrieval_channel,
        grpc.aio.insecure_channel(embedding) as embedding_channel,
        grpc.aio.insecure_channel(mesh.edge) as edge_channel,
        httpx.AsyncClient(base_url=f"http://{mesh.edge}{PREFIX}", headers=dict(signed)) as http,
    ):
        stub, edge = RetrievalServiceStub(retrieval_channel), RetrievalServiceStub(edge_channel)
        embed = EmbeddingServiceStub(embedding_channel)

        def searching(stub: Any, fields: Mapping[str, Any]) -> Ask:
            def ask(text: str) -> Awaitable[Any]:
                bypass = search_pb2.SearchRequest.BYPASS
                request = search_pb2.SearchRequest(query=text, collection=COLLECTION, cache_control=bypass, **fields)
                return stub.Search(request, metadata=signed)  # type: ignore[no-any-return]

            return ask

        async def over_rest(text: str) -> None:
            answer = await http.post(
                "/search", json={"query": text, "collection": COLLECTION, "cacheControl": "BYPASS"}
            )
            answer.raise_for_status()

        def embedding_alone(text: str) -> Awaitable[Any]:
            request = embedding_service_pb2.EmbedRequest(texts=[text], input_type=embedding_service_pb2.QUERY)
            return embed.Embed(request, metadata=signed)

        for _ in range(rounds):
            yield {
                "embed": embedding_alone,
                **{kind: searching(stub, fields) for kind, fields in _KINDS.items()},
                "hybrid, by the edge": searching(edge, {}),
                "hybrid, REST by the edge": over_rest,
            }


async def _ms_each(ask: Ask, queries: list[str], callers: int) -> list[float]:
    """Milliseconds each question takes, of so many callers at a time."""
    taken: list[float] = []
    waiting = iter(queries)

    async def caller() -> None:
        for text in waiting:
            began = time.perf_counter()
            await ask(text)
            taken.append((time.perf_counter() - began) * 1e3)

    await asyncio.gather(*(caller() for _ in range(callers)))
    return taken


if __name__ == "__main__":
    main()
