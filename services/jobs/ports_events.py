"""What following a tenant's events needs of the world: where they rest, and who else tells of some."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from services.jobs.events import CollectionChange, Span, TenantEvent


class EventLog(Protocol):
    """What happened in each tenant, in order. The oldest events are forgotten; their sequences are not given again.

    Events of jobs and their documents are written by the JobStore and the Queue, in the step that makes them so.
    """

    async def read(self, tenant: str, after: int, limit: int) -> list[TenantEvent]:
        """The events after that sequence, the oldest first; none where it is that of the last.

        Raises:
            EventsForgotten: some after it are no longer kept, or it lies beyond the last.
        """
        ...

    async def span(self, tenant: str) -> Span:
        """What is kept. To read all of that, begin after `first` - 1."""
        ...

    def news(self) -> AsyncIterator[frozenset[str]]:
        """Tenants in which something happened: at first all whose events are kept, then as it happens, without end.

        Many events close together may be told of once.

        Raises:
            DependencyUnavailable: the store does not answer; begin anew.
        """
        ...

    async def record(self, changes: Sequence[CollectionChange]) -> None:
        """Write changes of collections into the logs of their tenants, in the order of their sequence.

        Those up to `recorded` are passed over, so that several may record the same ones: each is written once.
        """
        ...

    async def rewind(self, seen: int, to: int) -> None:
        """What is `recorded` is `to`, where it still is `seen`: who counts the changes has begun anew."""
        ...

    async def recorded(self) -> int:
        """The sequence of the last change of a collection that was written; 0 where none was."""
        ...


class CollectionChanges(Protocol):
    """Changes of the collections of all tenants, from their owner."""

    def follow(self, after: int) -> AsyncIterator[Sequence[CollectionChange] | int]:
        """The sequence of the last change so far; then every change after that sequence, and each as it happens.

        The first may be lower than that, where the owner has begun anew: then the changes after the first follow.

        Raises:
            DependencyUnavailable: the owner does not answer, or not any more; begin anew.
        """
        ...
