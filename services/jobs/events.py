"""What happens in a tenant, as its event log keeps it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.jobs.job import Assignment, Item, Job
from services.mesh.errors import EventsForgotten, InvalidArgument

# Whatever the sequence of a tenant is: one that was erased, and came back, counts from 1 again.
_UIDS: Final = uuid.UUID("3c1f2d86-6f5e-5d8a-9a53-8a4f1c0f6d11")


TOPICS: Final = (
    "collection.created",
    "collection.updated",
    "collection.deleted",
    "collection.undeleted",
    "ingestion.started",
    "ingestion.progress",
    "ingestion.completed",
    "ingestion.failed",
    "ingestion.cancelled",
    "document.indexed",
    "document.failed",
)


class Topics:
    """Topics that somebody wants: such as "document.indexed", or "document.*"; all where none is named.

    Raises:
        InvalidArgument: one that does not exist.
    """

    def __init__(self, named: Sequence[str]) -> None:
        wanted: set[str] = set()
        for at, name in enumerate(named):
            found = {topic for topic in TOPICS if topic == name or f"{topic.partition('.')[0]}.*" == name}
            if not found:
                raise InvalidArgument.of(f"topics[{at}]", f"there is no such topic; there are {', '.join(TOPICS)}")
            wanted |= found
        self._wanted = wanted

    def __contains__(self, topic: str) -> bool:
        return not self._wanted or topic in self._wanted


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
        caused_by: The traceparent of the call that had the job's work queued last; "" where none did, and of changes of
            collections.
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
    caused_by: str = ""

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

    def start(self, after: int) -> int:
        """The sequence after which to begin reading: the one asked for; 0 means all that is kept, -1 none of it.

        Raises:
            EventsForgotten: events after it are not kept any more, or it was never reached.
        """
        if after <= 0:
            return self.first - 1 if after == 0 else self.last
        if not self.first - 1 <= after <= self.last:
            raise self.missed(after)
        return after

    def missed(self, after: int) -> EventsForgotten:
        """What whoever wants to go on after an event is told, where that cannot be."""
        met = f"the next that is kept is {self.first}" if after < self.first else f"the last was {self.last}"
        return EventsForgotten(f"there is nothing to go on with after event {after}: {met}")
