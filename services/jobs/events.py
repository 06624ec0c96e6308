"""What happens in a tenant, as its event log keeps it."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.jobs.job import Assignment, Item, Job

# Whatever the sequence of a tenant is: one that was erased, and came back, counts from 1 again.
_UIDS: Final = uuid.UUID("3c1f2d86-6f5e-5d8a-9a53-8a4f1c0f6d11")


@dataclass(frozen=True, slots=True)
class TenantEvent:
    """Something that happened in a tenant. Of `job`, `item` and `changed_collection`, it has one.

    Attributes:
        sequence: Counts the tenant's events from 1, without gaps.
        topic: Such as "document.indexed"; its first word tells what it happened to.
        assignment: Of the job, or of the item's; without its request and its caller.
        job: As it was then.
        item: As it was then, without timings; of its document, only what it is called by, and its ACL.
        changed_collection: As the contract writes it, opaque here.
    """

    tenant: str
    sequence: int
    topic: str
    time: datetime
    collection_id: str
    assignment: Assignment | None = None
    job: Job | None = None
    item: Item | None = None
    changed_collection: bytes = b""

    @property
    def uid(self) -> str:
        """No other event has it, and this one has it wherever it is sent."""
        return str(uuid.uuid5(_UIDS, f"{self.tenant}/{self.sequence}/{self.time.isoformat()}"))


@dataclass(frozen=True, slots=True)
class CollectionChange:
    """A change of a collection, from the outbox of who owns it.

    Attributes:
        sequence: Counts the changes of all tenants' collections.
        topic: Such as "collection.created".
        collection: As it then was: as the contract writes it, opaque here.
    """

    sequence: int
    tenant: str
    topic: str
    time: datetime
    collection_id: str
    collection: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """Sequences of the first and the last event that are kept; `first` is `last` + 1 where none are."""

    first: int
    last: int
