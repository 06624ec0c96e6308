"""What the system service needs of the world: stores of its own."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from services.mesh.audit import AuditEvent
from services.mesh.deny_list import Denial
from services.mesh.lists import ListQuery, Page
from services.mesh.quotas import Amounts
from services.mesh.receipts import Receipt
from services.mesh.reports import ProcessReport
from services.system.records import Figures, Granularity, Quota, Revocation, Tenant, UsageRow


class Processes(Protocol):
    """The processes of one service, however they are found and asked."""

    @property
    def service(self) -> str: ...

    async def look(self) -> Sequence[ProcessReport]:
        """How each of them is, by name; those that do not answer are DOWN. Never raises, within less than a second."""
        ...


class AuditLog(Protocol):
    """Audit events by tenant, kept until they are pruned.

    Every method is one transaction. Raises DependencyUnavailable where the database does not answer.
    """

    async def record(self, events: Sequence[AuditEvent]) -> None:
        """Keeps events, durably when it returns. Of one recorded begun and ended, in either order, the ended one stays;
        so an event may come any number of times.
        """
        ...

    async def list_events(self, tenant: str, query: ListQuery) -> Page[AuditEvent]: ...

    async def prune(self, before: datetime, limit: int) -> int:
        """Drops at most so many events that are older, of any tenant; returns how many."""
        ...

    async def erase(self, tenant: str, limit: int) -> int:
        """Drops at most so many events of a tenant; returns how many."""
        ...


@dataclass(frozen=True, slots=True)
class Taken:
    """Something of the audit stream; handed out again, perhaps to another process, until it is settled.

    Attributes:
        event: None where it cannot be read.
        content: As it was found.
    """

    entry_id: str
    event: AuditEvent | None
    content: bytes = b""


class AuditStream(Protocol):
    """Events on their way from every process. Raises DependencyUnavailable where the store does not answer."""

    async def take(self) -> Sequence[Taken]:
        """What nobody has taken, and what another took long ago and never settled; waits some seconds for any."""
        ...

    async def settle(self, entry_ids: Sequence[str]) -> None:
        """Drops what has been seen to. Whatever is not settled stays in the stream, however long it grows."""
        ...


class QuotaStore(Protocol):
    """Limits that were set, by tenant.

    Every method is one transaction. Raises DependencyUnavailable where the database does not answer.
    """

    async def find(self, tenant: str) -> Quota | None: ...

    async def write(
        self, tenant: str, change: Callable[[Quota | None], Quota], receipt: Receipt | None = None
    ) -> Quota:
        """Reads a tenant's limits and writes what `change` makes of them, and the receipt with it; nothing between.

        Returns:
            What was written; or what an earlier request with the receipt was answered.

        Raises:
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def recall(self, receipt: Receipt) -> Quota | None:
        """What an earlier request with the receipt was answered. Raises RequestIdReused."""
        ...

    async def erase(self, tenant: str) -> int:
        """Drops what was set for a tenant; returns how much that was."""
        ...


class Usage(Protocol):
    async def of_caller(self) -> Amounts:
        """What the caller's tenant keeps.

        Raises:
            DependencyUnavailable: The registry does not answer.
        """
        ...


class RevocationStore(Protocol):
    """Revocations by tenant; those that have expired do not exist, and those of a whole tenant are never listed.

    Every method is one transaction. Raises DependencyUnavailable where the database does not answer.
    """

    async def add(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        """Keeps it, in place of one of the same tenant and id.

        Returns:
            What was kept; or what an earlier request with the receipt was answered.

        Raises:
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def find(self, tenant: str, revocation_id: str, at: datetime) -> Revocation | None: ...

    async def list_revocations(self, tenant: str, query: ListQuery, at: datetime) -> Page[Revocation]: ...

    async def count(self, tenant: str) -> int:
        """How many there are, expired ones included."""
        ...

    async def remove(self, revocation: Revocation, receipt: Receipt | None = None) -> Revocation:
        """Drops it.

        Raises:
            RevocationNotFound: It is gone, or has another etag.
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def recall(self, receipt: Receipt) -> Revocation | None:
        """What an earlier request with the receipt was answered. Raises RequestIdReused."""
        ...

    async def holding(self, at: datetime) -> Sequence[Revocation]:
        """Every one of every tenant, whole tenants' included."""
        ...

    async def prune(self, at: datetime) -> None:
        """Drops those that have expired, and answers to requests that have."""
        ...

    async def erase(self, tenant: str) -> int:
        """Drops a tenant's, less that of the whole tenant; returns how many those were."""
        ...


class DenyListPublisher(Protocol):
    """Where every process reads who is denied. Raises DependencyUnavailable where the store does not answer."""

    async def publish(self, denials: Sequence[Denial]) -> None:
        """Puts this list in place of the one before, at once."""
        ...

    async def check(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Rows of a tenant, of one granularity, that begin in a span of time.

    Attributes:
        until: The first moment after the span.
        collection_id: Of collections that have or had this id; of all where it is empty.
    """

    tenant: str
    granularity: Granularity
    since: datetime
    until: datetime
    collection_id: str = ""


class UsageStore(Protocol):
    """Figures of searches, by tenant, period and collection.

    Every method is one transaction. Raises DependencyUnavailable where the database does not answer.
    """

    async def add(self, batch_id: str, rows: Sequence[UsageRow], at: datetime) -> bool:
        """Adds rows, of which no two have the same key, to those of the same keys; whether it did.

        A batch whose id is known changes nothing.

        Args:
            at: Since when the id is known.
        """
        ...

    async def list_rows(self, asked: Asked, query: ListQuery) -> Page[UsageRow]:
        """A page of rows of collections; those of all searches of the tenant are not among them."""
        ...

    async def total(self, asked: Asked) -> Figures:
        """The sum of the rows of a collection; without one, of those of all searches of the tenant."""
        ...

    async def prune(self, before: datetime, limit: int) -> int:
        """Drops at most so many rows that began before, of any tenant; returns how many."""
        ...

    async def forget(self, before: datetime) -> int:
        """Drops the ids of batches that have been known since before; returns how many."""
        ...

    async def erase(self, tenant: str, limit: int) -> int:
        """Drops at most so many rows of a tenant; returns how many."""
        ...


class TenantStore(Protocol):
    """Tenants that are deleted or being so.

    Every method is one transaction. Raises DependencyUnavailable where the database does not answer.
    """

    async def find(self, tenant: str) -> Tenant | None: ...

    async def gone(self, tenants: Collection[str]) -> frozenset[str]:
        """Those of the tenants that are deleted or being so."""
        ...

    async def deleted(self) -> Mapping[str, datetime]:
        """Every tenant that is deleted or being so, with when that was asked for."""
        ...

    async def deleting(self) -> Sequence[Tenant]:
        """Those whose deletion has not ended, the oldest first."""
        ...

    async def write(
        self, tenant: str, change: Callable[[Tenant | None], Tenant], receipt: Receipt | None = None
    ) -> Tenant:
        """Reads what is recorded of a tenant, writes what `change` makes of it, and the receipt with it; nothing
        between. Nothing stays recorded of an ACTIVE one.

        Returns:
            What `change` made; or what an earlier request with the receipt was answered.

        Raises:
            RequestIdReused: The receipt is known with another digest.
        """
        ...

    async def recall(self, receipt: Receipt) -> Tenant | None:
        """What an earlier request with the receipt was answered. Raises RequestIdReused."""
        ...


class Owner(Protocol):
    """A service that keeps something of tenants. Raises DependencyUnavailable where it does not answer."""

    @property
    def service(self) -> str:
        """Its name, such as "collections"."""
        ...

    async def erase(self, tenant: str) -> bool:
        """Erases some of what it keeps, and keeps nothing new until `admit`; whether it found nothing."""
        ...

    async def admit(self, tenant: str) -> None:
        """Lets in again what `erase` keeps out."""
        ...


class TenantRecords(Owner, Protocol):
    """What this very service keeps of tenants."""

    async def record(self, event: AuditEvent) -> None:
        """Keeps one event in spite of it all."""
        ...


class DenyTenants(Protocol):
    """Who may call. Raises DependencyUnavailable where it cannot be told to all."""

    async def deny_tenant(self, tenant: str, *, creator: str, reason: str) -> None: ...

    async def allow_tenant(self, tenant: str) -> None: ...


class Compaction(Protocol):
    async def compact(self) -> None:
        """Rids shared stores of the history in which what was deleted is still written.

        Raises:
            DependencyUnavailable: One does not answer, or has not come to its end in time.
        """
        ...


@dataclass(frozen=True, slots=True)
class Archived:
    """Something another service keeps, passed on unread.

    Attributes:
        kind: The field of the export's record it is: "collection", "document", "job" or "webhook".
        content: It, a serialised message of ragweave.v1.
        content_hash: Of a document's original; empty where it has none yet.
    """

    kind: str
    name: str
    content: bytes
    content_hash: str = ""


class Archive(Protocol):
    """What the other services keep of the caller's tenant."""

    def collections(self) -> AsyncIterator[Archived]: ...

    def documents(self, collection: str) -> AsyncIterator[Archived]:
        """The documents of a collection, named `collections/{collection}`, that the caller may find."""
        ...

    def original(self, content_hash: str) -> AsyncIterator[bytes]:
        """The bytes of an original, in parts of at most 256 KiB.

        Raises:
            UploadNotFound: It is not kept.
        """
        ...

    def jobs(self) -> AsyncIterator[Archived]: ...

    def webhooks(self) -> AsyncIterator[Archived]: ...
