"""Hybrid searches that nothing has cached, against what they are made of, called in one process with no mesh."""

from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.in_process import BareModel, BareSearch, FusedModel, copied_shard
from benchmarks.measure import Contestant, Measured, Working, measure, never_repeated
from benchmarks.plan import Plan
from benchmarks.results import Bar, Outcome
from benchmarks.rig import Rig
from benchmarks.searching import over_grpc, over_rest
from ragweave.cli.demo import QUESTIONS
from ragweave.v1 import search_pb2
from services.embedding.ports import InputType

GRPC, REST, BYPASSING = "gRPC, direct", "REST, by the edge", "gRPC, direct, cache passed by"
BARE, BARE_OF_TWO = "one process", "one process, two threads a run of the model"
BARE_FUSED = "one process, the model as the mesh runs it"
_TOGETHER: Final = 16
# So many hits may be others: equal scores are ordered differently, and a query's vector is a little off (ADR 17).
_DIFFERING: Final = 2
_ABOUT: Final = (
    "Hybrid searches of the demo's corpus by six words drawn at random, so that no two are the same and neither the "
    "cache of answers nor that of embeddings knows them. What they are held to is tokenizer, model and a copy of the "
    "same shard of the vector engine (dense and sparse candidates, fused by the engine itself) called in one process "
    "that does nothing else, and finds the same; one caller a thread. Its model is the published file on onnxruntime "
    "as it comes; at one caller the better of two layouts counts. What it takes by the graphs that the mesh runs (ADR "
    "17) is told beside it."
)


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Uncached searches, one at a time and 16 at a time."""
    shard = copied_shard(rig.index, rig.folder / "shard")
    models = {BARE: BareModel(1), BARE_OF_TWO: BareModel(2), BARE_FUSED: FusedModel(InputType.QUERY)}
    searches = {name: BareSearch(model, shard) for name, model in models.items()}
    _check_agreement(rig, searches[BARE])
    bare = {name: Working(name, search.search) for name, search in searches.items()}
    ours = _ours(rig)
    questions = never_repeated(rig.words, rig.seed)
    one = await measure(
        "1 at a time",
        [*bare.values(), *ours.values()],
        questions,
        callers=1,
        against=dict.fromkeys([*ours, BARE_OF_TWO, BARE_FUSED], BARE),
        **plan.rounds_and_seconds,
    )
    many = await measure(
        f"{_TOGETHER} at a time",
        [bare[BARE], bare[BARE_FUSED], ours[GRPC], ours[REST]],
        questions,
        callers=_TOGETHER,
        against=dict.fromkeys([GRPC, REST, BARE_FUSED], BARE),
        **plan.rounds_and_seconds,
    )
    return Outcome(_ABOUT, [one, many], bars(one, many))


def bars(one: Measured, many: Measured) -> Sequence[Bar]:
    """What is asked of searches that nothing has cached, and what they came to."""
    best = min((BARE, BARE_OF_TWO), key=lambda name: one.median(name, "p50_ms"))
    limit_ms = one.median(best, "p50_ms")
    more_ms = {name: one.more(name, "p50_ms", best) for name in (GRPC, REST)}
    asked_ms = {GRPC: 1.5, REST: 2.5}
    rate = many.ratio(GRPC, "per_s")
    return [
        *(
            Bar(
                2,
                f"uncached, {name}, 1 at a time: p50 at most {asked_ms[name]} ms more than {best}",
                f"{more:+.2f} ms on {limit_ms:.2f} ms",
                more <= asked_ms[name],
            )
            for name, more in more_ms.items()
        ),
        Bar(2, f"uncached, {GRPC}, {_TOGETHER} at a time: 85 % of the rate of {BARE}", f"{rate:.1%}", rate >= 0.85),
    ]


def _ours(rig: Rig) -> Mapping[str, Contestant]:
    token, collection = rig.token(), rig.collection
    edge, retrieval = rig.port("edge"), rig.port("retrieval")
    bypass = search_pb2.SearchRequest.BYPASS
    contestants = [
        over_grpc(GRPC, retrieval, token, collection, rig.processor_s),
        over_grpc(BYPASSING, retrieval, token, collection, rig.processor_s, cache_control=bypass),
        over_rest(REST, edge, token, collection, rig.processor_s),
    ]
    return {each.name: each for each in contestants}


def _check_agreement(rig: Rig, bare: BareSearch) -> None:
    """A limit that finds something else would be none."""
    with rig.client() as client:
        for question in QUESTIONS:
            ours = {hit.text for hit in client.search(question, rig.collection).hits}
            same = ours & {str((point.payload or {})["text"]) for point in bare.search(question)}
            if len(ours) - len(same) > _DIFFERING:
                raise RuntimeError(f"{question!r}: of {len(ours)} hits, one process finds only {len(same)}")
