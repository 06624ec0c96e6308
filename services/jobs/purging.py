"""One document of a collection, deleted if the job's filter still matches it."""

from services.jobs.job import Assignment, Failure, ItemChange, Lease, Outcome
from services.jobs.patience import Patience
from services.jobs.ports import Index, Queue, Registry
from services.jobs.work import DocumentBusy, JobCancelled
from services.mesh.errors import CollectionNotFound, DocumentNotFound

_NOT_FOUND = 5  # google.rpc.Code


class DocumentPurge:
    """The work of one item: a document that an import is at work on waits until that has ended."""

    def __init__(
        self, queue: Queue, registry: Registry, index: Index, patience: Patience, lease: Lease, job: Assignment
    ) -> None:
        assert lease.spec is not None
        self.committing = lease.committing
        self._queue = queue
        self._registry = registry
        self._index = index
        self._patience = patience
        self._lease = lease
        self._job = job
        self._id = lease.spec.document_id

    async def run(self) -> Outcome:
        job, again = self._job, self._lease.committing or self._lease.torn
        collection = await self._patience(lambda: self._registry.collection(job.collection_id, job.collection_uid))
        if collection.uid != job.collection_uid:
            raise CollectionNotFound(f"collections/{job.collection_id} was deleted after the purge began")
        if not await self._queue.lock(self._lease, collection.uid, self._id):
            raise DocumentBusy
        await self._asked()
        deleted = await self._patience(
            lambda: self._registry.delete_documents(job.collection_id, [self._id], filter=job.filter)
        )
        if not deleted and not (again and await self._gone()):
            told = f"{self._id}: it does not match the filter any more, or was deleted meanwhile"
            return Outcome(ItemChange.SKIP, error=Failure(_NOT_FOUND, DocumentNotFound.reason, told))
        revision = await self._patience(lambda: self._index.revision(collection))
        return Outcome(ItemChange.SUCCEED, index_revision=revision)

    async def abandon(self, failure: Failure) -> Outcome:
        """The document stays, unless its deletion has begun, which then ends by itself."""
        return Outcome(ItemChange.FAIL, error=failure)

    async def _gone(self) -> bool:
        """After an attempt that was killed before it could say so: whether that deleted the document."""
        return not await self._patience(lambda: self._registry.lookup(self._job.collection_id, [self._id]))

    async def _asked(self) -> None:
        before, self.committing = self.committing, True
        if not await self._queue.commit(self._lease, 0):
            self.committing = before
            raise JobCancelled
