"""Takes requests to bring a collection in line with the directory it is bound to."""

from dataclasses import dataclass

from services.jobs.estimator import Estimator
from services.jobs.importer import listed
from services.jobs.job import Assignment, DirectoryImport, Job, JobType, new_job_id
from services.jobs.ports import Collection, Files
from services.jobs.submission import Submissions, estimated
from services.mesh.errors import FailedPrecondition, PathNotAllowed, PathNotFound
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Which collection.

    Attributes:
        allow_empty: All documents of the directory are deleted where it holds no file any more.
        receipt: Makes the call safe to repeat; None where the caller gave none.
        echo: The request, for the job to show; opaque here.
    """

    collection_id: str
    allow_empty: bool = False
    validate_only: bool = False
    receipt: Receipt | None = None
    echo: bytes = b""


class Syncs:
    """Makes jobs that import a bound directory as a whole: what it has, and that what it no longer has is gone.

    Of the syncs of a collection one at a time has not ended: a listing that is older than what another one has imported
    since would have it deleted as vanished.
    """

    def __init__(self, submissions: Submissions, files: Files, estimator: Estimator) -> None:
        self._submissions = submissions
        self._files = files
        self._estimator = estimator

    async def sync(self, request: SyncRequest, who: Caller) -> Job:
        """The job, recorded and queued; with `validate_only` one that holds an estimate and is kept nowhere.

        Raises:
            CollectionNotFound, CollectionDisabled: there is no such collection, or it takes no documents.
            FailedPrecondition: it is bound to no directory, or that is not there, or not allowed.
            JobRunning: a sync of the collection has not ended.
            RequestIdReused: the request id stands for another request.
        """
        return await self._submissions.once(request.receipt, who, lambda: self._sync(request, who))

    async def _sync(self, request: SyncRequest, who: Caller) -> Job:
        collection = await self._submissions.collection(request.collection_id)
        directory = await self.directory(collection, who.tenant)
        job = Assignment(
            tenant=who.tenant,
            job_id=new_job_id(),
            subject=who.subject,
            type=JobType.SYNC,
            collection_id=collection.id,
            collection_uid=collection.uid,
            directory=directory,
            source_key=f"directory:{directory.key()}",
            full=True,
            sole=f"sync:{collection.uid}",
            allow_empty=request.allow_empty,
            request=request.echo,
        )
        if request.validate_only:
            estimate, _ = await self._estimator.estimate(job, collection, listed(self._files, who.tenant, directory))
            return estimated(job, estimate)
        return await self._submissions.submit(job, [], request.receipt)

    async def directory(self, collection: Collection, tenant: str) -> DirectoryImport:
        """The directory a collection is bound to, as it is there now. Raises FailedPrecondition where it is not."""
        field = f"collections/{collection.id}: source.directory"
        if collection.source is None:
            raise FailedPrecondition(f"{field}: it is bound to none")
        try:
            directory, file = await self._files.resolve(tenant, collection.source)
        except (PathNotAllowed, PathNotFound) as error:
            raise FailedPrecondition(f"{field}: {error.message}") from None
        if file:
            raise FailedPrecondition(f"{field}: {collection.source.path[:200]}: it is a file")
        return directory
