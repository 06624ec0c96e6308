"""Searches that the cache answers, against a bare echo of the same answer behind the same edge."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.echo import Echo, running_echo
from benchmarks.measure import Contestant, Measured, measure, repeated
from benchmarks.plan import Plan
from benchmarks.processors import used_s
from benchmarks.results import Bar, Outcome
from benchmarks.rig import Edge, Rig
from benchmarks.searching import over_grpc, over_rest
from ragweave.cli.demo import QUESTIONS
from ragweave.v1 import search_pb2
from ragweave.v1.cache_service_pb2 import GetCacheStatsRequest

REST, GRPC = "REST, by the edge", "gRPC, direct"
ECHO_REST, ECHO_GRPC = "echo, REST, by the edge", "echo, gRPC, direct"
_CALLERS: Final = (1, 8, 50)
_ABOUT: Final = (
    "One question over and over, which the cache of answers knows, each caller over a connection of its own. The echo "
    "is a bare grpc.aio server that answers every search with that same message, made beforehand; the Envoy before it "
    "is rendered from the same configuration as the mesh's, but for where searches go."
)


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Cached searches at 1, 8 and 50 connections."""
    answer = _cached_answer(rig)
    with running_echo(answer) as echo, rig.edge_to(echo.port) as edge:
        contestants = _contestants(rig, echo, edge)
        before = _hits(rig)
        measures = [
            await measure(
                f"{callers} at a time",
                contestants,
                repeated(QUESTIONS[0]),
                callers=callers,
                against={REST: ECHO_REST, GRPC: ECHO_GRPC},
                **plan.rounds_and_seconds,
            )
            for callers in _CALLERS
        ]
        answered = sum(each.answers for one in measures for name in (REST, GRPC) for each in one.samples[name])
        if (hits := _hits(rig) - before) < answered:
            raise RuntimeError(f"of {answered} answers only {hits} came from the cache")
        rig.check_traced(answered)
    return Outcome(_ABOUT, measures, bars(dict(zip(_CALLERS, measures, strict=True))))


def bars(by_callers: Mapping[int, Measured]) -> Sequence[Bar]:
    """What is asked of cached searches, and what they came to."""
    most, eight, one = by_callers[50], by_callers[8], by_callers[1]
    rest, grpc = most.ratio(REST, "per_s"), most.ratio(GRPC, "per_s")
    slower = {callers: by_callers[callers].ratio(REST, "p50_ms") for callers in (1, 8)}
    p50_ms, p95_ms = one.median(REST, "p50_ms"), eight.median(REST, "p95_ms")
    return [
        Bar(1, "cached, REST, 50 connections: 60 % of the echo's rate", f"{rest:.1%}", rest >= 0.6),
        Bar(1, "cached, direct gRPC, 50 connections: 60 % of the bare echo's", f"{grpc:.1%}", grpc >= 0.6),
        *(
            Bar(3, f"cached, REST, {callers} at a time: p50 at most 1.7x the echo's", f"{ratio:.2f}x", ratio <= 1.7)
            for callers, ratio in slower.items()
        ),
        Bar(3, "cached, REST, 1 at a time: p50 at most 1.2 ms", f"{p50_ms:.2f} ms", p50_ms <= 1.2),
        Bar(3, "cached, REST, 8 at a time: p95 under 6.8 ms", f"{p95_ms:.2f} ms", p95_ms < 6.8),
    ]


def _contestants(rig: Rig, echo: Echo, edge: Edge) -> list[Contestant]:
    token, collection = rig.token(), rig.collection

    def of_echo() -> Mapping[str, float]:
        return {"echo": used_s([echo.pid]), "envoy": used_s([edge.pid])}

    return [
        over_rest(REST, rig.port("edge"), token, collection, rig.processor_s),
        over_rest(ECHO_REST, edge.port, token, collection, of_echo),
        over_grpc(GRPC, rig.port("retrieval"), token, collection, rig.processor_s),
        over_grpc(ECHO_GRPC, echo.port, token, collection, of_echo),
    ]


def _cached_answer(rig: Rig) -> search_pb2.SearchResponse:
    """What the mesh answers when it is asked again."""
    with rig.client() as client:
        client.search(QUESTIONS[0], rig.collection)
        answer = client.search(QUESTIONS[0], rig.collection)
    if answer.cache.status != search_pb2.SearchResponse.Cache.HIT:
        raise RuntimeError(f"the second time, too, the answer was new: {answer.cache}")
    return answer


def _hits(rig: Rig) -> int:
    with rig.client() as client:
        return int(client.cache.GetCacheStats(GetCacheStatsRequest()).hits)
