"""Jobs about the documents that a filter selects: made again, or deleted."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

from services.jobs.estimator import Candidate, Estimator
from services.jobs.expansion import Listing
from services.jobs.job import Assignment, DocumentSpec, Estimate, Job, JobType, OnDuplicate, new_job_id
from services.jobs.patience import Patience
from services.jobs.ports import Collection, KnownDocument, Registry
from services.jobs.ports_content import BlobStore
from services.jobs.reading import Found
from services.jobs.ready import READY_TYPE
from services.jobs.reprocessing import spec_of
from services.jobs.submission import Submissions, estimated
from services.mesh.errors import InvalidArgument
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt

_PAGE = 200
_NAMED = 100
_EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class SelectionRequest:
    """Which documents, and what of them.

    Attributes:
        filter: As ListDocuments takes it.
        force: Also documents that are as they should be; of a purge: delete them rather than count them.
        receipt: Makes the call safe to repeat; None where the caller gave none.
        echo: The request, for the job to show; opaque here.
    """

    collection_id: str
    filter: str = ""
    force: bool = False
    validate_only: bool = False
    receipt: Receipt | None = None
    echo: bytes = b""


class Selections:
    """Makes jobs about documents that there are."""

    def __init__(self, submissions: Submissions, registry: Registry, blobs: BlobStore, estimator: Estimator) -> None:
        self._submissions = submissions
        self._registry = registry
        self._blobs = blobs
        self._estimator = estimator

    async def reprocess(self, request: SelectionRequest, who: Caller) -> Job:
        """The job, recorded and queued; with `validate_only` one that holds an estimate and is kept nowhere.

        Raises:
            CollectionNotFound, CollectionDisabled: there is no such collection, or it takes no documents.
            InvalidFilter: the filter does not parse.
            RequestIdReused: the request id stands for another request.
        """

        async def work() -> Job:
            collection, job = await self._begun(request, who, JobType.REPROCESS, request.filter)
            if request.validate_only:
                estimate, _ = await self._estimator.estimate(job, collection, self._stored(job))
                return estimated(job, estimate)
            return await self._submissions.submit(job, [], request.receipt)

        return await self._submissions.once(request.receipt, who, work)

    async def purge(self, request: SelectionRequest, who: Caller) -> Job:
        """The job, recorded and queued; without `force`, or with `validate_only`, one that holds an estimate and is
        kept nowhere.

        Raises:
            InvalidArgument: the filter is blank: all documents are meant by `*` only.
            CollectionNotFound, CollectionDisabled, InvalidFilter, RequestIdReused: as `reprocess` does.
        """
        wanted = request.filter.strip()
        if not wanted:
            raise InvalidArgument.of("filter", f"is blank; `{_EVERYTHING}` stands for all documents")
        if wanted == _EVERYTHING:
            wanted = ""

        async def work() -> Job:
            _, job = await self._begun(request, who, JobType.PURGE, wanted)
            if request.validate_only or not request.force:
                return estimated(job, await self._counted(job))
            return await self._submissions.submit(job, [], request.receipt)

        return await self._submissions.once(request.receipt, who, work)

    async def _begun(
        self, request: SelectionRequest, who: Caller, type: JobType, filter: str
    ) -> tuple[Collection, Assignment]:
        collection = await self._submissions.collection(request.collection_id)
        await self._registry.select(collection.id, filter, "", 1)  # refuses now what no worker could list
        return collection, Assignment(
            tenant=who.tenant,
            job_id=new_job_id(),
            subject=who.subject,
            type=type,
            collection_id=collection.id,
            collection_uid=collection.uid,
            on_duplicate=OnDuplicate.REPLACE if request.force else OnDuplicate.SKIP,
            filter=filter,
            request=request.echo,
        )

    async def _counted(self, job: Assignment) -> Estimate:
        count = await self._registry.count(job.collection_id, job.filter)
        found = await self._registry.select(job.collection_id, job.filter, "", _NAMED)
        return Estimate(count, 0, 0, 0, sample=tuple(each.document_id for each in found))

    async def _stored(self, job: Assignment) -> AsyncIterator[Candidate]:
        """The documents that would be made again, with their originals."""
        after = ""
        while found := await self._registry.select(job.collection_id, job.filter, after, _PAGE):
            for known in found:
                if not known.pending and known.mime_type != READY_TYPE:
                    yield Candidate(spec_of(known), partial(self._read, job.tenant, known))
            after = found[-1].document_id

    async def _read(self, tenant: str, known: KnownDocument) -> Found:
        return Found(spec_of(known), await self._blobs.read(tenant, known.content_hash))


def selected(registry: Registry, patience: Patience, job: Assignment) -> Listing:
    """How the documents of a job about a selection are found: in the order of their ids."""

    async def page(after: str, limit: int) -> tuple[list[DocumentSpec], str | None]:
        found = await patience(lambda: registry.select(job.collection_id, job.filter, after, limit))
        specs = [DocumentSpec(each.document_id, each.source_uri, principals=each.principals) for each in found]
        return specs, found[-1].document_id if len(found) == limit else None

    return page
