"""How a request becomes a job, whatever that job is about."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from services.jobs.job import Assignment, DocumentSpec, Estimate, Failure, Job, JobState, Progress
from services.jobs.ports import Collection, JobStore, Registry
from services.mesh.errors import CollectionDisabled
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt, once


class Submissions:
    """Records jobs and queues them, each request's once."""

    def __init__(self, store: JobStore, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    async def once(self, receipt: Receipt | None, who: Caller, work: Callable[[], Awaitable[Job]]) -> Job:
        """The job that `work` makes, or the one it made when the same request came before. Raises RequestIdReused."""

        async def recall(receipt: Receipt) -> Job | None:
            made = await self._store.recall(receipt)
            return await self._store.get(who.tenant, made) if made else None

        return await once(receipt, recall, work)

    async def collection(self, collection_id: str) -> Collection:
        """The collection a job is to be about. Raises CollectionNotFound, CollectionDisabled."""
        collection = await self._registry.collection(collection_id)
        if collection.disabled:
            raise CollectionDisabled(f"collections/{collection.id} is disabled")
        return collection

    async def submit(self, job: Assignment, specs: Sequence[DocumentSpec], receipt: Receipt | None) -> Job:
        """The job, as recorded; `specs` are its items where they are known. Raises RequestIdReused, JobRunning."""
        made = await self._store.submit(job, specs, receipt)
        return await self._store.get(job.tenant, made)


def estimated(job: Assignment, estimate: Estimate, error: Failure | None = None) -> Job:
    """A job that is kept nowhere, and so has no id: what it would do, and why it would not."""
    now = datetime.now(UTC)
    return Job(replace(job, job_id=""), JobState.QUEUED, Progress(), now, now, now, estimate=estimate, error=error)
