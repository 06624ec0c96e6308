"""Follows the changes of collections, which have an owner of their own, into the logs of their tenants."""

from services.jobs.ports_events import CollectionChanges, EventLog


class Follower:
    """Goes on after the last change that was written, by whomever: several may follow at once."""

    def __init__(self, changes: CollectionChanges, log: EventLog) -> None:
        self._changes = changes
        self._log = log

    async def run(self) -> None:
        """Without end. Raises DependencyUnavailable; to be begun again then."""
        after = await self._log.recorded()
        async for told in self._changes.follow(after):
            if not isinstance(told, int):
                await self._log.record(told)
            elif told < after:
                await self._log.rewind(after, told)
