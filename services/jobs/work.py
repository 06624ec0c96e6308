"""What a leased piece of work is to its worker, and the ways it can stop short of an outcome."""

from typing import Protocol

from services.jobs.job import Failure, Outcome


class Work(Protocol):
    """One leased piece of work."""

    @property
    def committing(self) -> bool:
        """It may have written outside, so it must not be stopped."""
        ...

    async def run(self) -> Outcome | None:
        """Do it; None where that has ended the lease too.

        Raises:
            DocumentBusy: to be done later.
            JobCancelled: nothing was written.
            LeaseLost: somebody else does it now.
        """
        ...

    async def abandon(self, failure: Failure) -> Outcome:
        """It will not be done: leave things as they were before, and say why where people look.

        Raises:
            DocumentBusy, JobCancelled, LeaseLost: as `run`.
        """
        ...


class DocumentBusy(Exception):
    """Another item works on the same document."""


class JobCancelled(Exception):
    """The job is being cancelled, and this work had not written anything yet."""
