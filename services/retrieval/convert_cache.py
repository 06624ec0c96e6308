"""Between the contract's messages and answers that the cache has part in."""

from typing import Final

from google.protobuf.field_mask_pb2 import FieldMask

from ragweave.v1 import search_pb2 as pb
from services.retrieval.answering import Served
from services.retrieval.cache import Layer, Status
from services.retrieval.convert import degraded_to, duration_to, lasting_to, timings_to
from services.retrieval.query import Query
from services.retrieval.retriever import Answer

_STATUSES: Final = {
    Status.NONE: pb.SearchResponse.Cache.STATUS_UNSPECIFIED,
    Status.HIT: pb.SearchResponse.Cache.HIT,
    Status.MISS: pb.SearchResponse.Cache.MISS,
    Status.BYPASSED: pb.SearchResponse.Cache.BYPASSED,
    Status.REFRESHED: pb.SearchResponse.Cache.REFRESHED,
}
_LAYERS: Final = {
    Layer.NONE: pb.SearchResponse.Cache.LAYER_UNSPECIFIED,
    Layer.PROCESS: pb.SearchResponse.Cache.PROCESS,
    Layer.SHARED: pb.SearchResponse.Cache.SHARED,
    Layer.IN_FLIGHT: pb.SearchResponse.Cache.IN_FLIGHT,
}


def body_of(answer: Answer, query: Query) -> bytes:
    """The answer as it is kept and sent: what of it is the same in every call."""
    return lasting_to(answer, FieldMask(paths=query.read_mask)).SerializeToString()


def response_from(served: Served, trace_id: str) -> pb.SearchResponse:
    """The answer with what one call can tell: its times, its trace, and how the cache took part."""
    response = pb.SearchResponse.FromString(served.body)
    response.timings.extend(timings_to(served.timings_s))
    if served.degraded is not None:
        response.degraded_stages.append(degraded_to(served.degraded))
    use = served.use
    response.cache.status, response.cache.layer = _STATUSES[use.status], _LAYERS[use.layer]
    if use.status is Status.HIT:
        response.cache.age.CopyFrom(duration_to(use.age_s))
    response.trace_id = trace_id
    return response
