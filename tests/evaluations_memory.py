"""What evaluation needs of others, in memory: stores, a searcher that answers by rote, jobs that nobody runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ragweave.v1.job_pb2 import Job
from services.mesh.errors import DependencyUnavailable, EvaluationNotFound
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from services.retrieval.chunks import Mode
from services.retrieval.ports_evaluation import QueuedJob
from services.retrieval.query import Query
from services.retrieval.query_sets import no_set, taken, too_many
from services.retrieval.ranking import Hit
from services.retrieval.retriever import Answer
from services.retrieval.samples import Conclusion, Evaluation, FoundByEach, QuerySet, SampleQuery


class MemoryQuerySets:
    """Fulfils QuerySetStore."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, str], QuerySet] = {}
        self._answers: dict[tuple[str, str, str], tuple[Receipt, QuerySet]] = {}

    async def recall(self, receipt: Receipt) -> QuerySet | None:
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0].digest)
        return known[1]

    async def add(self, made: QuerySet, most: int, receipt: Receipt | None = None) -> QuerySet:
        if receipt and (known := await self.recall(receipt)):
            return known
        if (made.tenant, made.id) in self._sets:
            raise taken(made.id)
        if len(await self.all(made.tenant)) >= most:
            raise too_many(most)
        self._sets[made.tenant, made.id] = made
        return self._noted(made, receipt)

    async def change(
        self, tenant: str, set_id: str, change: Callable[[QuerySet], QuerySet], receipt: Receipt | None = None
    ) -> QuerySet:
        if receipt and (known := await self.recall(receipt)):
            return known
        made = self._sets[tenant, set_id] = change(await self.get(tenant, set_id))
        return self._noted(made, receipt)

    async def remove(
        self, tenant: str, set_id: str, check: Callable[[QuerySet], None], receipt: Receipt | None = None
    ) -> QuerySet:
        if receipt and (known := await self.recall(receipt)):
            return known
        found = await self.get(tenant, set_id)
        check(found)
        del self._sets[tenant, set_id]
        return self._noted(found, receipt)

    async def get(self, tenant: str, set_id: str) -> QuerySet:
        if (tenant, set_id) not in self._sets:
            raise no_set(set_id)
        return self._sets[tenant, set_id]

    async def all(self, tenant: str) -> list[QuerySet]:
        return [replace(each, queries=()) for (owner, _), each in self._sets.items() if owner == tenant]

    async def erase(self, tenant: str) -> int:
        gone = [key for key in self._sets if key[0] == tenant]
        for key in gone:
            del self._sets[key]
        self._answers = {key: each for key, each in self._answers.items() if key[0] != tenant}
        return len(gone)

    def _noted(self, made: QuerySet, receipt: Receipt | None) -> QuerySet:
        if receipt:
            kept = (receipt, replace(made, queries=()))
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = kept
        return made


class MemoryEvaluations:
    """Fulfils EvaluationStore."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Evaluation] = {}
        self._queries: dict[tuple[str, str], list[SampleQuery]] = {}
        self._found: dict[tuple[str, str], dict[str, FoundByEach]] = {}
        self._answers: dict[tuple[str, str, str], tuple[Receipt, str]] = {}

    async def recall(self, receipt: Receipt) -> str | None:
        known = self._answers.get((receipt.tenant, receipt.method, receipt.request_id))
        if known is None:
            return None
        receipt.check(known[0].digest)
        return known[1]

    async def add(
        self, made: Evaluation, queries: Sequence[SampleQuery], most: int, receipt: Receipt | None = None
    ) -> str:
        if receipt and (known := await self.recall(receipt)):
            return known
        self._kept[made.tenant, made.id] = made
        self._queries[made.tenant, made.id] = list(queries)
        for old in sorted(await self.all(made.tenant), key=lambda each: each.purge_time)[:-most]:
            del self._kept[old.tenant, old.id]
        if receipt:
            self._answers[receipt.tenant, receipt.method, receipt.request_id] = (receipt, made.id)
        return made.id

    async def queued(self, tenant: str, evaluation_id: str, job: str) -> None:
        if (tenant, evaluation_id) in self._kept:
            self._kept[tenant, evaluation_id] = replace(self._kept[tenant, evaluation_id], job=job)

    async def get(self, tenant: str, evaluation_id: str) -> Evaluation:
        found = self._kept.get((tenant, evaluation_id))
        if found is None or found.purge_time <= datetime.now(UTC):
            raise EvaluationNotFound(f"evaluations/{evaluation_id} does not exist")
        return found

    async def all(self, tenant: str) -> list[Evaluation]:
        now = datetime.now(UTC)
        return [each for (owner, _), each in self._kept.items() if owner == tenant and each.purge_time > now]

    async def queries(self, tenant: str, evaluation_id: str) -> list[SampleQuery]:
        await self.get(tenant, evaluation_id)
        return self._queries[tenant, evaluation_id]

    async def keep(self, tenant: str, evaluation_id: str, query_id: str, found: FoundByEach) -> None:
        await self.get(tenant, evaluation_id)
        self._found.setdefault((tenant, evaluation_id), {})[query_id] = found

    async def found(self, tenant: str, evaluation_id: str) -> Mapping[str, FoundByEach]:
        return self._found.get((tenant, evaluation_id), {})

    async def conclude(self, tenant: str, evaluation_id: str, conclusion: Conclusion) -> None:
        self._kept[tenant, evaluation_id] = replace(await self.get(tenant, evaluation_id), conclusion=conclusion)

    async def erase(self, tenant: str) -> int:
        gone = [key for key in self._kept if key[0] == tenant]
        for key in gone:
            del self._kept[key]
        return len(gone)


@dataclass
class RoteSearcher:
    """Fulfils Searcher: answers and failures by mode and question; what was asked is noted.

    Attributes:
        gone: Names of what is not there.
    """

    gone: Sequence[str] = ()
    answers: dict[tuple[Mode | None, str], Sequence[Hit]] = field(default_factory=dict)
    failures: dict[tuple[Mode | None, str], Exception] = field(default_factory=dict)
    asked: list[tuple[Query, Caller]] = field(default_factory=list)
    timeouts_s: list[float | None] = field(default_factory=list)

    async def search(self, query: Query, who: Caller, *, timeout_s: float | None = None) -> Answer:
        self.asked.append((query, who))
        self.timeouts_s.append(timeout_s)
        if failure := self.failures.get((query.mode, query.text)):
            raise failure
        found = self.answers.get((query.mode, query.text), [])
        return Answer(found, len(found), "", {}, (), 0, 0)

    async def lacking(self, names: Sequence[str], collection_ids: Sequence[str], who: Caller) -> list[str]:
        return [name for name in names if name in self.gone]


@dataclass
class NotedJobs:
    """Fulfils EvaluationJobs, where it does not fail."""

    away: bool = False
    submitted: list[tuple[str, str]] = field(default_factory=list)

    async def submit(
        self, evaluation_id: str, collection_id: str, request: bytes, *, validate_only: bool = False
    ) -> QueuedJob:
        if self.away:
            raise DependencyUnavailable("jobs is unavailable")
        if validate_only:
            return QueuedJob("", Job().SerializeToString())
        self.submitted.append((evaluation_id, collection_id))
        job = Job(name=f"jobs/{evaluation_id}", type=Job.EVALUATE)
        return QueuedJob(job.name, job.SerializeToString())
