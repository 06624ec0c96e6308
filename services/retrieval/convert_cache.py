"""Between the contract's messages and answers that the cache has part in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ragweave.v1 import cache_pb2 as pb_cache
from ragweave.v1 import cache_service_pb2 as service_pb
from ragweave.v1 import search_pb2 as pb
from services.mesh.convert_times import duration_to, time_to
from services.mesh.lists import ListQuery, Page
from services.retrieval.answering import Served
from services.retrieval.cache import Layer, Status, Tally
from services.retrieval.cache_keeping import ENTRIES, Purged, Stats
from services.retrieval.convert import degraded_to, lasting_to, query_from, timings_to
from services.retrieval.convert_explaining import stage_to
from services.retrieval.query import Query
from services.retrieval.results import OF_NO_ANSWER, Entry
from services.retrieval.retriever import Answer
from services.retrieval.warming import Warming

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


@dataclass(frozen=True, slots=True)
class Sent:
    """An answer as it is sent."""

    response: pb.SearchResponse

    @property
    def total(self) -> int:
        return self.response.total_size

    @property
    def degraded(self) -> bool:
        return bool(self.response.degraded_stages)


def body_of(answer: Answer) -> bytes:
    """The answer as it is kept and sent: what of it is the same in every call."""
    return lasting_to(answer).SerializeToString()


def sent_from(body: bytes) -> Sent:
    """The answer that `body_of` made."""
    return Sent(pb.SearchResponse.FromString(body))


def response_from(served: Served[Sent], trace_id: str) -> pb.SearchResponse:
    """The answer with what one call can tell: its times, its trace, and how the cache took part."""
    response = served.answer.response
    response.timings.extend(timings_to(served.timings_s))
    if served.degraded is not None:
        response.degraded_stages.append(degraded_to(served.degraded))
    use = served.use
    response.cache.status, response.cache.layer = _STATUSES[use.status], _LAYERS[use.layer]
    if use.status is Status.HIT:
        response.cache.age.CopyFrom(duration_to(use.age_s))
    for place, each in enumerate(served.ran):
        response.explanation.stages.insert(place, stage_to(each))
    response.trace_id = trace_id
    return response


def written_from(request: pb.SearchRequest) -> bytes:
    """The request as the query log keeps it: what it asks for, without how to come by the answer."""
    kept = pb.SearchRequest()
    kept.CopyFrom(request)
    for field in OF_NO_ANSWER:
        kept.ClearField(field)
    return kept.SerializeToString(deterministic=True)


def query_read(written: bytes) -> Query:
    return query_from(pb.SearchRequest.FromString(written))


def entries_query(request: service_pb.ListCacheEntriesRequest) -> ListQuery:
    return ENTRIES.query(
        filter=request.filter,
        order_by=request.order_by,
        page_size=request.page_size,
        page_token=request.page_token,
        page=request.page,
    )


def entries_to(page: Page[Entry]) -> service_pb.ListCacheEntriesResponse:
    return service_pb.ListCacheEntriesResponse(
        entries=[_entry_to(each) for each in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def _entry_to(entry: Entry) -> pb_cache.CacheEntry:
    return pb_cache.CacheEntry(
        id=entry.asked.key.hex(),
        query=entry.asked.text,
        collections=[f"collections/{each}" for each in entry.asked.collection_ids],
        mode=pb.SearchRequest.Mode.Value(entry.asked.mode.name),
        create_time=time_to(entry.created_s),
        age=duration_to(entry.age_s),
        size_bytes=entry.size,
        hits=entry.hits,
    )


def stats_to(stats: Stats) -> pb_cache.CacheStats:
    layers = {Tally.PROCESS: Layer.PROCESS, Tally.SHARED: Layer.SHARED, Tally.IN_FLIGHT: Layer.IN_FLIGHT}
    return pb_cache.CacheStats(
        hits=stats.hits,
        misses=stats.tally[Tally.MISS],
        hit_rate=stats.hit_rate,
        coalesced=stats.tally[Tally.IN_FLIGHT],
        bypassed=stats.tally[Tally.BYPASSED],
        refreshed=stats.tally[Tally.REFRESHED],
        evictions=stats.tally[Tally.EVICTED],
        entries=stats.entries,
        size_bytes=stats.size,
        layers=[
            pb_cache.CacheStats.LayerStats(layer=_LAYERS[layer], hits=stats.tally[tally])
            for tally, layer in layers.items()
        ],
        start_time=time_to(stats.since_s),
    )


def purged_to(purged: Purged) -> service_pb.PurgeCacheResponse:
    return service_pb.PurgeCacheResponse(
        process_entries=purged.here, shared_entries=purged.shared, questions=purged.questions
    )


def warmed_to(outcomes: Mapping[Warming, int]) -> service_pb.WarmCacheResponse:
    return service_pb.WarmCacheResponse(
        warmed=outcomes[Warming.WARMED], kept=outcomes[Warming.KEPT], left_out=outcomes[Warming.LEFT_OUT]
    )
