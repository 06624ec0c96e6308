"""What evaluation needs of others: where sets and results rest, searches, and jobs that run query by query."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from services.retrieval.query import Query
from services.retrieval.retriever import Answer
from services.retrieval.samples import Conclusion, Evaluation, FoundByEach, QuerySet, SampleQuery


class QuerySetStore(Protocol):
    """Sample query sets. Every method sees one tenant's only, and a write is durable when it returns.

    Raises:
        DependencyUnavailable: The store does not answer.
    """

    async def recall(self, receipt: Receipt) -> QuerySet | None:
        """The answer to an earlier request of this receipt, without queries. Raises RequestIdReused."""
        ...

    async def add(self, made: QuerySet, most: int, receipt: Receipt | None = None) -> QuerySet:
        """Keeps a new set, unless the tenant has `most`.

        Raises:
            AlreadyExists: One of its id exists.
            FailedPrecondition: The tenant has as many as it may.
            RequestIdReused: The receipt's id stands for another request.
        """
        ...

    async def change(
        self, tenant: str, set_id: str, change: Callable[[QuerySet], QuerySet], receipt: Receipt | None = None
    ) -> QuerySet:
        """Keeps what `change` makes of a set as it is; called anew where the set changed meanwhile.

        Raises:
            SampleQuerySetNotFound: The tenant has no such set.
            RequestIdReused: The receipt's id stands for another request.
        """
        ...

    async def remove(
        self, tenant: str, set_id: str, check: Callable[[QuerySet], None], receipt: Receipt | None = None
    ) -> QuerySet:
        """Forgets a set, unless `check` raises; returns it as it was. Raises as `change` does."""
        ...

    async def get(self, tenant: str, set_id: str) -> QuerySet:
        """The set with its queries. Raises SampleQuerySetNotFound."""
        ...

    async def all(self, tenant: str) -> list[QuerySet]:
        """The tenant's sets, without queries."""
        ...


class EvaluationStore(Protocol):
    """Evaluations with their queries, and what these found. As QuerySetStore; each is forgotten at its purge_time."""

    async def recall(self, receipt: Receipt) -> str | None:
        """Id of the evaluation that an earlier request of this receipt made. Raises RequestIdReused."""
        ...

    async def add(
        self, made: Evaluation, queries: Sequence[SampleQuery], most: int, receipt: Receipt | None = None
    ) -> str:
        """Keeps a new evaluation; beyond `most` of the tenant the oldest is forgotten.

        Returns:
            Its id; with a receipt that came before, that of the one that was made then.

        Raises:
            RequestIdReused: The receipt's id stands for another request.
        """
        ...

    async def queued(self, tenant: str, evaluation_id: str, job: str) -> None:
        """Notes the job; nothing happens where the evaluation is gone."""
        ...

    async def get(self, tenant: str, evaluation_id: str) -> Evaluation:
        """Raises EvaluationNotFound."""
        ...

    async def all(self, tenant: str) -> list[Evaluation]: ...

    async def queries(self, tenant: str, evaluation_id: str) -> list[SampleQuery]:
        """Its queries, in order. Raises EvaluationNotFound."""
        ...

    async def keep(self, tenant: str, evaluation_id: str, query_id: str, found: FoundByEach) -> None:
        """Keeps what a query found, in place of what it found before. Raises EvaluationNotFound."""
        ...

    async def found(self, tenant: str, evaluation_id: str) -> Mapping[str, FoundByEach]:
        """What its queries found, by their ids."""
        ...

    async def conclude(self, tenant: str, evaluation_id: str, conclusion: Conclusion) -> None:
        """Keeps what came out of it. Raises EvaluationNotFound."""
        ...


class Searcher(Protocol):
    """Searches that are made to be measured: nothing of them comes from a cache, and none counts as use."""

    async def search(self, query: Query, who: Caller, *, timeout_s: float | None = None) -> Answer:
        """See Retriever.search."""
        ...

    async def lacking(self, names: Sequence[str], collection_ids: Sequence[str], who: Caller) -> list[str]:
        """Those of the documents and chunks that are in none of the collections, or not for the caller.

        Args:
            names: Resource names; a bare id is that of a document in any of the collections.

        Raises:
            CollectionNotFound, CollectionDisabled, DependencyUnavailable: As `search` does.
        """
        ...


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as its owner tells of it: its name, and the message; opaque here."""

    name: str
    message: bytes


class EvaluationJobs(Protocol):
    async def submit(
        self, evaluation_id: str, collection_id: str, request: bytes, *, validate_only: bool = False
    ) -> QueuedJob:
        """The job that runs the evaluation as the caller; one each, however often this is called.

        Raises:
            DependencyUnavailable: Its owner does not answer.
        """
        ...
