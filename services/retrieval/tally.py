"""Figures of searches as they are counted."""

from dataclasses import dataclass, field
from typing import Final, Protocol

HOUR_S: Final = 3600


class Ended(Protocol):
    """A search that was answered: hits in all pages, whether by the cache, and whether without a stage."""

    total: int
    cached: bool
    degraded: bool


@dataclass(slots=True)
class HourTally:
    """Searches of a collection in an hour.

    Attributes:
        collection_uid: Empty for all of the tenant's searches.
        hour: Hours since 1970.
        errors: Those that were not answered; what follows is of the others.
        latencies: How many took how long, by bucket (services.mesh.latency).
    """

    tenant: str
    collection_uid: str
    collection_id: str
    hour: int
    queries: int = 0
    errors: int = 0
    degraded: int = 0
    zero_results: int = 0
    cache_hits: int = 0
    latencies: dict[int, int] = field(default_factory=dict)

    def answered(self, bucket: int, search: Ended) -> None:
        self.queries += 1
        self.zero_results += not search.total
        self.cache_hits += search.cached
        self.degraded += search.degraded
        self.latencies[bucket] = self.latencies.get(bucket, 0) + 1

    def failed(self) -> None:
        self.queries += 1
        self.errors += 1
