"""What each kind of search takes that nothing has cached, and what a query takes to embed."""

from typing import Any, Final

from benchmarks import http2
from benchmarks.measure import Calling, measure, never_repeated
from benchmarks.plan import Plan
from benchmarks.results import Outcome
from benchmarks.rig import Rig
from benchmarks.searching import opening, over_grpc, over_rest
from ragweave.v1 import embedding_service_pb2, search_pb2

_EMBED: Final = "embed"
_EMBED_METHOD: Final = "/ragweave.v1.EmbeddingService/Embed"
_KINDS: Final[dict[str, dict[str, Any]]] = {
    "sparse": {"mode": search_pb2.SearchRequest.SPARSE},
    "dense": {"mode": search_pb2.SearchRequest.DENSE},
    "hybrid": {},
    "hybrid, least score": {"min_score": 0.2},
    "hybrid, highlights": {"highlight": True},
}
_ABOUT: Final = (
    "Six words drawn at random, the cache of answers passed by, over gRPC at the service's own port unless another way "
    "is named. `embed` is such a query embedded alone, at the embedding service's port: no search with vectors is "
    "faster."
)


async def run(rig: Rig, plan: Plan) -> Outcome:
    """Every kind, one at a time and 16 at a time."""
    contestants = _contestants(rig)
    against = {each.name: _EMBED for each in contestants if each.name != _EMBED}
    questions = never_repeated(rig.words, rig.seed)
    measures = [
        await measure(
            f"{callers} at a time",
            contestants,
            questions,
            callers=callers,
            against=against,
            **plan.rounds_and_seconds,
        )
        for callers in (1, 16)
    ]
    return Outcome(_ABOUT, measures)


def _contestants(rig: Rig) -> list[Calling]:
    token, collection, used_s = rig.token(), rig.collection, rig.processor_s
    bypass = search_pb2.SearchRequest.BYPASS
    retrieval, edge = rig.port("retrieval"), rig.port("edge")
    return [
        _embedding(rig, token),
        *(
            over_grpc(kind, retrieval, token, collection, used_s, cache_control=bypass, **fields)
            for kind, fields in _KINDS.items()
        ),
        over_grpc("hybrid, by the edge", edge, token, collection, used_s, cache_control=bypass),
        over_rest("hybrid, REST by the edge", edge, token, collection, used_s, cacheControl="BYPASS"),
    ]


def _embedding(rig: Rig, token: str) -> Calling:
    port = rig.port("embedding")
    headers = http2.headers(port, _EMBED_METHOD, token)

    def encoded(question: str) -> bytes:
        request = embedding_service_pb2.EmbedRequest(texts=[question], input_type=embedding_service_pb2.QUERY)
        return request.SerializeToString()

    return Calling(_EMBED, opening(lambda: http2.Caller(port, headers), encoded, lambda _: None), rig.processor_s)
