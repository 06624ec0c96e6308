"""Lists the source of a job page by page, and at the end of a FULL import deletes what the source no longer has."""

from services.jobs.job import Assignment, Failure, ItemChange, Lease, Outcome
from services.jobs.patience import Patience
from services.jobs.ports import Files, Index, Queue, Registry
from services.jobs.work import JobCancelled
from services.mesh.errors import CollectionNotFound

_ITEMS_A_PAGE = 200
_DOCUMENTS_A_PAGE = 500


class Expansion:
    """The work of listing a directory. Each page is added with the place to go on from, so a kill costs one page."""

    committing = False

    def __init__(self, queue: Queue, files: Files, lease: Lease, job: Assignment) -> None:
        assert job.directory is not None
        self._queue = queue
        self._files = files
        self._lease = lease
        self._tenant = job.tenant
        self._directory = job.directory

    async def run(self) -> None:
        after, total = self._lease.checkpoint, self._lease.total
        while True:
            found, more = await self._files.page(self._tenant, self._directory, after, _ITEMS_A_PAGE)
            if not await self._queue.expand(self._lease, total, found, more or after, final=more is None):
                raise JobCancelled
            if more is None:
                return
            after, total = more, total + len(found)

    async def abandon(self, failure: Failure) -> Outcome:
        """What was listed before is imported all the same."""
        return Outcome(ItemChange.FAIL, error=failure)


class Sweep:
    """The work of deleting documents of the job's source that the source did not show this time."""

    def __init__(
        self, queue: Queue, registry: Registry, index: Index, patience: Patience, lease: Lease, job: Assignment
    ) -> None:
        self.committing = lease.committing
        self._queue = queue
        self._registry = registry
        self._index = index
        self._patience = patience
        self._lease = lease
        self._job = job

    async def run(self) -> Outcome:
        job, after = self._job, ""
        collection = await self._patience(lambda: self._registry.collection(job.collection_id))
        if collection.uid != job.collection_uid:
            raise CollectionNotFound(f"collections/{job.collection_id} was deleted after the import began")
        while True:
            known = await self._patience(
                lambda after=after: self._registry.source_documents(  # type: ignore[misc]
                    job.collection_id, job.source_key, after, _DOCUMENTS_A_PAGE
                )
            )
            gone = await self._queue.absent(self._lease, known)
            if gone:
                await self._asked()
                await self._patience(lambda gone=gone: self._registry.delete_documents(job.collection_id, gone))  # type: ignore[misc]
            if len(known) < _DOCUMENTS_A_PAGE:
                break
            after = known[-1]
        revision = await self._patience(lambda: self._index.revision(collection)) if self.committing else 0
        return Outcome(ItemChange.SUCCEED, index_revision=revision)

    async def abandon(self, failure: Failure) -> Outcome:
        """What was deleted is gone from the source; the rest stays until the next FULL import."""
        return Outcome(ItemChange.FAIL, error=failure)

    async def _asked(self) -> None:
        before, self.committing = self.committing, True
        if not await self._queue.commit(self._lease, 0):
            self.committing = before
            raise JobCancelled
