"""What the system service keeps of tenants."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from math import inf
from typing import Final

from services.mesh.deny_list import Denial, Kind
from services.mesh.quotas import Amounts


@dataclass(frozen=True, slots=True)
class Quota:
    """A tenant's limits.

    Attributes:
        update_time: When they were last set; None while they are the configured ones.
        etag: Changes with the limits.
        usage: What is kept now; None where that was not asked for, or could not be told.
    """

    tenant: str
    limits: Amounts
    etag: str
    update_time: datetime | None = None
    usage: Amounts | None = None

    @property
    def name(self) -> str:
        return f"quotas/{self.tenant}"


@dataclass(frozen=True, slots=True)
class Revocation:
    """Who is denied within a tenant: a subject, a token, or with neither the whole tenant.

    Attributes:
        creator: The subject who made it.
        expire_time: When it ends; None for never.
    """

    tenant: str
    revocation_id: str
    subject: str
    token_id: str
    reason: str
    creator: str
    create_time: datetime
    etag: str
    expire_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"revocations/{self.revocation_id}"

    @property
    def denial(self) -> Denial:
        """What every process is told of it."""
        until = self.expire_time.timestamp() if self.expire_time else inf
        if self.subject:
            return Denial(self.tenant, Kind.SUBJECT, self.subject, until)
        if self.token_id:
            return Denial(self.tenant, Kind.TOKEN, self.token_id, until)
        return Denial(self.tenant, Kind.TENANT, until=until)


class Granularity(StrEnum):
    """Periods of usage, in UTC."""

    HOUR = "HOUR"
    DAY = "DAY"

    @property
    def length(self) -> timedelta:
        return timedelta(days=1) if self is Granularity.DAY else timedelta(hours=1)

    def begin(self, at: datetime) -> datetime:
        """When the period that a time lies in began."""
        at = at.astimezone(UTC)
        return at.replace(hour=0 if self is Granularity.DAY else at.hour, minute=0, second=0, microsecond=0)


SEARCHES: Final = ("queries", "errors", "degraded", "zero_results", "cache_hits")


@dataclass(frozen=True, slots=True)
class Figures:
    """Numbers of searches.

    Attributes:
        queries: All of them.
        errors: Those that were not answered; what follows is of the others.
        degraded: Those that went without a stage.
        zero_results: Those that found nothing.
        cache_hits: Those the result cache answered.
        latencies: How many took how long, by bucket (services.mesh.latency).
    """

    queries: int = 0
    errors: int = 0
    degraded: int = 0
    zero_results: int = 0
    cache_hits: int = 0
    latencies: Mapping[int, int] = field(default_factory=dict)

    def __add__(self, other: "Figures") -> "Figures":
        counts = {name: getattr(self, name) + getattr(other, name) for name in SEARCHES}
        buckets = {*self.latencies, *other.latencies}
        latencies = {each: self.latencies.get(each, 0) + other.latencies.get(each, 0) for each in buckets}
        return Figures(**counts, latencies=latencies)

    @property
    def cache_hit_rate(self) -> float:
        answered = self.queries - self.errors
        return self.cache_hits / answered if answered else 0.0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """What a collection was asked for in a period.

    Attributes:
        collection_uid: Empty for all of the tenant's searches, and then so is collection_id.
    """

    tenant: str
    granularity: Granularity
    start_time: datetime
    collection_uid: str
    collection_id: str
    figures: Figures

    @property
    def key(self) -> tuple[str, Granularity, datetime, str]:
        """No two rows have the same."""
        return self.tenant, self.granularity, self.start_time, self.collection_uid


class TenantState(StrEnum):
    """ACTIVE: in use, or never seen; nothing is recorded of those."""

    ACTIVE = "ACTIVE"
    DELETING = "DELETING"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Part:
    """How far one service is with erasing a tenant.

    Attributes:
        erased: When last asked, it found nothing.
        confirmed: It did so when nothing could be written any more.
        code: Why it did not get on when last asked, as gRPC's number; 0 where it did.
    """

    service: str
    erased: bool = False
    confirmed: bool = False
    code: int = 0
    message: str = ""


@dataclass(frozen=True, slots=True)
class Tenant:
    """Where a tenant stands.

    Attributes:
        subject: Who had it deleted.
        delete_time: When that was asked for.
        deny_time: When every process had been told to refuse its tokens.
        purge_time: When nothing of it was left.
    """

    tenant: str
    state: TenantState = TenantState.ACTIVE
    parts: tuple[Part, ...] = ()
    subject: str = ""
    delete_time: datetime | None = None
    deny_time: datetime | None = None
    purge_time: datetime | None = None

    @property
    def name(self) -> str:
        return f"tenants/{self.tenant}"

    def part(self, service: str) -> Part:
        """That of a service; one that it has not begun where it was added to the mesh since."""
        return next((each for each in self.parts if each.service == service), Part(service))

    def with_part(self, part: Part) -> "Tenant":
        others = tuple(each for each in self.parts if each.service != part.service)
        return replace(self, parts=tuple(sorted((*others, part), key=lambda each: each.service)))
