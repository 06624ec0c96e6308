"""Lists the source of a job page by page, and at the end of a FULL import deletes what the source no longer has."""

from collections.abc import Awaitable, Callable, Sequence

from services.jobs.job import Assignment, DocumentSpec, Failure, ItemChange, Lease, Outcome
from services.jobs.patience import Patience
from services.jobs.ports import Index, Queue, Registry
from services.jobs.work import JobCancelled
from services.mesh.errors import CollectionNotFound, SourceEmpty

_ITEMS_A_PAGE = 200
_DOCUMENTS_A_PAGE = 500


# Documents after a place in a source, at most so many, and the place to go on after; None at the end.
Listing = Callable[[str, int], Awaitable[tuple[list[DocumentSpec], str | None]]]


class Expansion:
    """The work of listing a source. Each page is added with the place to go on from, so a kill costs one page.

    Args:
        distinct: The source may list a document twice; then every time but the first fails.
    """

    committing = False

    def __init__(self, queue: Queue, listing: Listing, lease: Lease, *, distinct: bool = False) -> None:
        self._queue = queue
        self._listing = listing
        self._lease = lease
        self._distinct = distinct

    async def run(self) -> None:
        after, total = self._lease.checkpoint, self._lease.total
        while True:
            found, more = await self._listing(after, _ITEMS_A_PAGE)
            doubtful = any(not spec.document_id for spec in found)
            if self._distinct:
                found = await self._told_apart(found)
            if not await self._queue.expand(
                self._lease,
                total,
                found,
                more or after,
                final=more is None,
                distinct=self._distinct,
                doubtful=doubtful,
            ):
                raise JobCancelled
            if more is None:
                return
            after, total = more, total + len(found)

    async def _told_apart(self, found: Sequence[DocumentSpec]) -> list[DocumentSpec]:
        ids = [spec.document_id for spec in found if spec.document_id]
        new = set(await self._queue.absent(self._lease, ids))
        apart = []
        for spec in found:
            if spec.document_id in new or spec.refused:
                new.discard(spec.document_id)
                apart.append(spec)
            else:
                refused = f"its id {spec.document_id} is that of an earlier row too"
                apart.append(DocumentSpec("", path=spec.path, refused=refused))
        return apart

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
        collection = await self._patience(lambda: self._registry.collection(job.collection_id, job.collection_uid))
        if collection.uid != job.collection_uid:
            raise CollectionNotFound(f"collections/{job.collection_id} was deleted after the import began")
        while True:
            known = await self._patience(
                lambda after=after: self._registry.source_documents(  # type: ignore[misc]
                    job.collection_id, job.source_key, after, _DOCUMENTS_A_PAGE
                )
            )
            gone = await self._queue.absent(self._lease, known)
            if gone and not self._lease.total and not job.allow_empty:
                raise SourceEmpty(
                    f"{self._source}: it holds no file that is wanted, as if it were not mounted; nothing was deleted. "
                    "Sync with allow_empty where it is meant to be empty"
                )
            if gone:
                await self._asked()
                await self._patience(lambda gone=gone: self._registry.delete_documents(job.collection_id, gone))  # type: ignore[misc]
            if len(known) < _DOCUMENTS_A_PAGE:
                break
            after = known[-1]
        revision = await self._patience(lambda: self._index.revision(collection)) if self.committing else 0
        return Outcome(ItemChange.SUCCEED, index_revision=revision)

    @property
    def _source(self) -> str:
        return self._job.directory.spelt("") if self._job.directory else self._job.source_key

    async def abandon(self, failure: Failure) -> Outcome:
        """What was deleted is gone from the source; the rest stays until the next FULL import."""
        return Outcome(ItemChange.FAIL, error=failure)

    async def _asked(self) -> None:
        before, self.committing = self.committing, True
        if not await self._queue.commit(self._lease, 0):
            self.committing = before
            raise JobCancelled
