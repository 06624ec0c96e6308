"""Evaluations as jobs: their items are queries, which retrieval runs one by one, and their last step concludes them."""

from dataclasses import dataclass

from services.jobs.expansion import Listing
from services.jobs.job import (
    Assignment,
    DocumentSpec,
    Estimate,
    Failure,
    ItemChange,
    Job,
    JobType,
    Lease,
    Outcome,
    new_job_id,
)
from services.jobs.patience import Patience
from services.jobs.ports import EvaluationRuns
from services.jobs.submission import Submissions, estimated
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """Which evaluation.

    Attributes:
        collection_id: What the job is shown with.
        echo: The request that made it, for the job to show; opaque here.
    """

    evaluation_id: str
    collection_id: str
    validate_only: bool = False
    echo: bytes = b""


class EvaluationJobs:
    """Makes the job of an evaluation; the same evaluation has the same job."""

    def __init__(self, submissions: Submissions) -> None:
        self._submissions = submissions

    async def submit(self, request: EvaluationRequest, who: Caller) -> Job:
        """The job, recorded and queued; with `validate_only` one that is kept nowhere.

        Raises:
            CollectionNotFound, CollectionDisabled: there is no such collection, or it takes no searches.
        """
        evaluation = request.evaluation_id
        receipt = Receipt(who.tenant, "SubmitEvaluation", f"evaluation:{evaluation}", evaluation)

        async def work() -> Job:
            collection = await self._submissions.collection(request.collection_id)
            job = Assignment(
                tenant=who.tenant,
                job_id=new_job_id(),
                subject=who.subject,
                type=JobType.EVALUATE,
                collection_id=collection.id,
                collection_uid=collection.uid,
                full=True,
                evaluation=evaluation,
                principals=tuple(sorted(who.principals)),
                request=request.echo,
            )
            if request.validate_only:
                return estimated(job, Estimate(0, 0, 0, 0))
            return await self._submissions.submit(job, [], receipt)

        return await self._submissions.once(None if request.validate_only else receipt, who, work)


def queries(runs: EvaluationRuns, patience: Patience, job: Assignment) -> Listing:
    """How the queries of an evaluation are found: in the order of their set."""

    async def page(after: str, limit: int) -> tuple[list[DocumentSpec], str | None]:
        offset = int(after or 0)
        ids, total = await patience(lambda: runs.queries(job.evaluation, offset, limit))
        specs = [DocumentSpec(each, source_uri=f"evaluations/{job.evaluation}#{each}") for each in ids]
        following = offset + len(ids)
        return specs, str(following) if ids and following < total else None

    return page


class QueryRun:
    """The work of one item: a query. It may be stopped at any time, and run again: what it found replaces itself."""

    committing = False

    def __init__(self, runs: EvaluationRuns, patience: Patience, lease: Lease, job: Assignment) -> None:
        assert lease.spec is not None
        self._runs = runs
        self._patience = patience
        self._evaluation = job.evaluation
        self._query = lease.spec.document_id

    async def run(self) -> Outcome:
        await self._patience(lambda: self._runs.run(self._evaluation, self._query))
        return Outcome(ItemChange.SUCCEED)

    async def abandon(self, failure: Failure) -> Outcome:
        """A query without a result counts as failed there."""
        return Outcome(ItemChange.FAIL, error=failure)


class EvaluationEnd:
    """The last step: what the queries found becomes the evaluation's result."""

    committing = False

    def __init__(self, runs: EvaluationRuns, patience: Patience, job: Assignment) -> None:
        self._runs = runs
        self._patience = patience
        self._evaluation = job.evaluation

    async def run(self) -> Outcome:
        await self._patience(lambda: self._runs.conclude(self._evaluation))
        return Outcome(ItemChange.SUCCEED)

    async def abandon(self, failure: Failure) -> Outcome:
        """Without a result; a retry of the job tries again."""
        return Outcome(ItemChange.FAIL, error=failure)
