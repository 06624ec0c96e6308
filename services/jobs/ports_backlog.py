"""What is left to do in the job store, as it is watched from outside."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Backlog:
    """How much work there is, of all tenants together.

    Attributes:
        waiting: Pieces of work that nobody works on.
        leased: Pieces that workers have.
        delayed: Pieces that failed and are to be queued again later.
        oldest_s: Since when the oldest of the first two is queued.
        late: Leases that ran out and that nobody has taken over.
        silence_s: The longest that the holder of one of these has been silent.
        dead_letters: Items that failed for good, of jobs that are still kept.
        deliveries: Deliveries to webhooks that wait for their turn or their next attempt.
        overdue_s: How long the first of these should have been sent by now.
    """

    waiting: int = 0
    leased: int = 0
    delayed: int = 0
    oldest_s: float = 0.0
    late: int = 0
    silence_s: float = 0.0
    dead_letters: int = 0
    deliveries: int = 0
    overdue_s: float = 0.0


class BacklogStore(Protocol):
    """Where jobs rest."""

    async def backlog(self, most: int) -> Backlog:
        """What is left to do, in one step that changes nothing.

        Args:
            most: Tenants, jobs and webhooks looked at, of each: with more of them the figures are lower bounds.

        Raises:
            DependencyUnavailable: the store does not answer.
        """
        ...
