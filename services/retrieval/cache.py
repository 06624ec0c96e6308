"""Answers given again: from this process, from a store that all replicas share, or from who is just making them."""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, TypeAlias

from prometheus_client import REGISTRY, CollectorRegistry

from services.mesh.bypass import AdaptiveBypass
from services.mesh.errors import DependencyUnavailable
from services.retrieval.chunks import IndexId
from services.retrieval.figures import cache_families
from services.retrieval.flights import Flights
from services.retrieval.ports import SharedResults
from services.retrieval.query import CacheControl
from services.retrieval.results import Asked, Entry, NearResults
from services.retrieval.revisions import RevisionsMirror

# When to ask again for what needs the cache.
_RETRY_S: Final = 1.0


class Status(Enum):
    """What the cache did for an answer."""

    NONE = auto()
    HIT = auto()
    MISS = auto()
    BYPASSED = auto()
    REFRESHED = auto()


class Layer(Enum):
    """Where an answer was had from."""

    NONE = auto()
    PROCESS = auto()
    SHARED = auto()
    IN_FLIGHT = auto()


class Tally(Enum):
    """What is counted of searches."""

    PROCESS = auto()
    SHARED = auto()
    IN_FLIGHT = auto()
    MISS = auto()
    REFRESHED = auto()
    BYPASSED = auto()
    EVICTED = auto()


@dataclass(frozen=True, slots=True)
class CacheUse:
    """How the cache took part in an answer.

    Attributes:
        age_s: Seconds since the answer was made.
        down: Why the cache could not take part, or not wholly; empty where it could.
    """

    status: Status = Status.NONE
    layer: Layer = Layer.NONE
    age_s: float = 0.0
    down: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """An answer just made, as it is sent; one that is not whole went without a stage, and is not kept."""

    body: bytes
    whole: bool


Make: TypeAlias = Callable[[], Awaitable[Made]]


@dataclass(frozen=True, slots=True)
class _Served:
    """What a flight brings."""

    entry: Entry
    whole: bool
    use: CacheUse


class ResultCache:
    """Gives answers again as long as nothing was written to what they are of.

    An answer is kept with the revisions that this process knew *before* it read the indexes, and given again only while
    the revisions known are still these. A write is counted before it is acknowledged, so no answer hides one: neither
    a write of this process, ever, nor another's for longer than RevisionsMirror says. Where revisions cannot be told,
    no answer is given again.

    Args:
        shared: What all replicas share; None: nothing.
        max_bytes: Of the answers in this process.
        ttl_s: How long an answer is kept at most.

    Attributes:
        since_s: When counting began, by time.time().
    """

    def __init__(
        self,
        revisions: RevisionsMirror,
        shared: SharedResults | None = None,
        *,
        max_bytes: int,
        ttl_s: float,
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self.since_s = time.time()
        self._revisions = revisions
        self._shared = shared
        self._bypass = AdaptiveBypass()
        self._ttl_s = ttl_s
        self._near = NearResults(max_bytes, ttl_s, lambda asked: self._count(asked, Tally.EVICTED))
        revisions.on_bump(self._near.outdate)
        events, size = cache_families(registry)
        self._events = {what: events.labels(what.name.lower()) for what in Tally}
        size.set_function(lambda: self._near.size)
        self._flights: Flights[_Served] = Flights()
        self._era = revisions.era
        self._tallies: dict[tuple[str, IndexId | None], Counter[Tally]] = {}

    async def answer(
        self,
        asked: Asked,
        make: Make,
        *,
        control: CacheControl = CacheControl.DEFAULT,
        timeout_s: float | None = None,
        lookup_s: float | None = None,
        require_all: bool = False,
    ) -> tuple[bytes, CacheUse]:
        """The answer as it is sent, from the cache or made, and how the cache took part.

        Args:
            make: Makes it anew. Of callers that ask the same at the same time, one's is run.
            timeout_s: What is left of the caller's time.
            lookup_s: What of this the cache may take for itself.
            require_all: An answer that is not whole is a failure to this caller, and so is a cache that is away.

        Raises:
            DependencyUnavailable: The cache cannot take part, and all stages are required.
        """
        if control is CacheControl.BYPASS:
            self._count(asked, Tally.BYPASSED)
            return (await make()).body, CacheUse(Status.BYPASSED)
        revisions = self._revisions.at(asked.indexes) or await self._revisions.told(asked.indexes, lookup_s)
        if revisions is None:
            down = "it is not known what was written meanwhile: the revision counter (Redis) does not answer"
            use = _allowed(CacheUse(down=down), require_all)
            return (await make()).body, use
        if control is CacheControl.REFRESH:
            refreshed = await self._made(asked, revisions, make)
            self._count(asked, Tally.REFRESHED)
            return refreshed.entry.body, replace(_allowed(refreshed.use, require_all), status=Status.REFRESHED)
        self._begin_anew()
        entry = self._near.get(asked.key, revisions)
        if entry is not None:
            entry.hits += 1
            self._count(asked, Tally.PROCESS)
            return entry.body, CacheUse(Status.HIT, Layer.PROCESS, entry.age_s)
        flight = (asked.key, require_all, self._era)
        served, followed = await self._flights.fly(
            flight, revisions, timeout_s, lambda: self._found(asked, revisions, make)
        )
        if followed:
            self._count(asked, Tally.IN_FLIGHT)
            return served.entry.body, CacheUse(Status.HIT, Layer.IN_FLIGHT, served.entry.age_s)
        self._count(asked, Tally.SHARED if served.use.layer is Layer.SHARED else Tally.MISS)
        return served.entry.body, _allowed(served.use, require_all)

    async def fill(self, asked: Asked, make: Make, *, timeout_s: float | None, lookup_s: float | None) -> bool:
        """Has the answer kept; whether it was made for that, rather than there or shared by others. Counted nowhere.

        Raises:
            DependencyUnavailable: The revision counter does not answer: nothing can be kept.
        """
        revisions = self._revisions.at(asked.indexes) or await self._revisions.told(asked.indexes, lookup_s)
        if revisions is None:
            raise DependencyUnavailable("the revision counter (Redis) does not answer", retry_after_s=1.0)
        self._begin_anew()
        if self._near.get(asked.key, revisions) is not None:
            return False
        flight = (asked.key, True, self._era)
        served, followed = await self._flights.fly(
            flight, revisions, timeout_s, lambda: self._found(asked, revisions, make)
        )
        return not followed and served.use.layer is Layer.NONE

    def entries(self, tenant: str) -> list[Entry]:
        """The tenant's answers in this process that would be given again."""
        self._begin_anew()
        own = [entry for entry in self._near.entries() if entry.asked.tenant == tenant]
        return [
            entry
            for entry in own
            if (revisions := self._revisions.at(entry.asked.indexes)) and entry.serves(revisions, self._ttl_s)
        ]

    def tally(self, tenant: str, index: IndexId | None = None) -> Counter[Tally]:
        """What was counted since this process began, of all the tenant's searches or of those of one index."""
        return self._tallies.get((tenant, index), Counter())

    async def purge(
        self, tenant: str, index: IndexId | None = None, *, outdated: Collection[IndexId] = ()
    ) -> tuple[int, int]:
        """Drops the tenant's answers, or those that an index has part in: how many here, and of the shared.

        Args:
            outdated: Indexes whose answers no replica may give again, as if they had been written to.

        Raises:
            DependencyUnavailable: The counter or the shared store does not answer; purging again does no harm.
        """
        dropped = self._near.drop(tenant, index)
        for each in outdated:
            await self._revisions.bump(each)
        return dropped, 0 if self._shared is None else await self._shared.drop(tenant, index)

    def forget(self, tenant: str) -> None:
        """Drops what was counted of the tenant's searches."""
        self._tallies = {key: tally for key, tally in self._tallies.items() if key[0] != tenant}

    async def _found(self, asked: Asked, revisions: tuple[int, ...], make: Make) -> _Served:
        """Shared by another replica, or else made."""
        entry = await self._looked_up(asked, revisions)
        if entry is None:
            return await self._made(asked, revisions, make)
        self._keep(entry)
        return _Served(entry, True, CacheUse(Status.HIT, Layer.SHARED, entry.age_s))

    async def _looked_up(self, asked: Asked, revisions: tuple[int, ...]) -> Entry | None:
        """What is shared and still serves. A store that is away is asked each time: it may be back."""
        if self._shared is None or not (self._shared.down or self._bypass.looks()):
            return None
        entry = await self._shared.get(asked)
        serves = entry is not None and entry.serves(revisions, self._ttl_s)
        self._bypass.found(serves)
        return entry if serves else None

    async def _made(self, asked: Asked, revisions: tuple[int, ...], make: Make) -> _Served:
        """Made, and kept where it is whole."""
        made = await make()
        entry = Entry(asked, revisions, made.body, time.time())
        if made.whole and self._keep(entry) and self._shared is not None:
            self._shared.put(entry)
        down = "" if self._shared is None else self._shared.down
        return _Served(entry, made.whole, CacheUse(Status.MISS, down=down))

    def _keep(self, entry: Entry) -> bool:
        """Keeps the answer here, unless something was written meanwhile: nobody would ask for it then."""
        self._begin_anew()
        current = self._revisions.at(entry.asked.indexes) == entry.revisions
        if current:
            self._near.put(entry)
        return current

    def _begin_anew(self) -> None:
        """Drops all that was kept under revisions which do not compare with those known now."""
        if self._era != self._revisions.era:
            self._era = self._revisions.era
            self._near.clear()

    def _count(self, asked: Asked, what: Tally) -> None:
        self._events[what].inc()
        for of in (None, *asked.indexes):
            tally = self._tallies.get((asked.tenant, of))
            if tally is None:
                tally = self._tallies[asked.tenant, of] = Counter()
            tally[what] += 1


def _allowed(use: CacheUse, require_all: bool) -> CacheUse:
    """The use that was made of the cache, unless it is away from a caller who requires all stages."""
    if use.down and require_all:
        raise DependencyUnavailable(f"cache: {use.down}", retry_after_s=_RETRY_S, stage="cache")
    return use
