"""The values of evaluation: sample queries with their judgements, evaluations, and what their queries found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property

from services.retrieval.measures import Measures, Ranks
from services.retrieval.ranking import Hit

_CHUNK = "/chunks/"


def now() -> datetime:
    """As it is kept: to the millisecond."""
    found = datetime.now(UTC)
    return found.replace(microsecond=found.microsecond // 1000 * 1000)


@dataclass(frozen=True)
class SampleQuery:
    """A question and what was judged for it.

    Attributes:
        judgements: Names of documents or chunks with their grades, as they were given; a bare id is a document's.
    """

    id: str
    text: str
    judgements: tuple[tuple[str, int], ...]

    @property
    def problem(self) -> str:
        """What is wrong with the judgements; "" where nothing is."""
        names = [name for name, _ in self.judgements]
        if len(set(names)) < len(names):
            return f"{next(name for name in names if names.count(name) > 1)!r:.100} comes twice"
        if not self.grades:
            return "nothing in it is relevant: give a grade of 1 or more"
        if len({_CHUNK in name for name in names}) > 1:
            return "is judged by document and by chunk; one query is judged by one of them"
        return ""

    @cached_property
    def grades(self) -> tuple[int, ...]:
        """Of what is relevant."""
        return tuple(grade for _, grade in self.judgements if grade > 0)

    def ranks(self, hits: Sequence[Hit]) -> tuple[Ranks, list[str]]:
        """Where the hits have what is relevant, and the names of what of it they do not have.

        Judged by document, a document stands where its best chunk does, and its other chunks take no rank.
        """
        left = dict(self.judgements)
        by_chunk = any(_CHUNK in name for name in left)
        seen: set[str] = set()
        found = []
        for hit in hits:
            chunk = hit.found.chunk
            document = f"collections/{hit.collection.collection_id}/documents/{chunk.document.document_id}"
            name = f"{document}{_CHUNK}{chunk.chunk_id}" if by_chunk else document
            if name in seen:
                continue
            seen.add(name)
            grade = left.pop(name, 0) or left.pop(chunk.document.document_id, 0)
            if grade:
                found.append((len(seen), grade))
        return found, [name for name, grade in left.items() if grade > 0]


@dataclass(frozen=True, slots=True)
class QuerySet:
    """A set of sample queries.

    Attributes:
        queries: Empty where the set is one of a list.
    """

    tenant: str
    id: str
    description: str
    query_count: int
    create_time: datetime
    update_time: datetime
    etag: str
    queries: tuple[SampleQuery, ...] = ()

    @property
    def name(self) -> str:
        """`sampleQuerySets/{sample_query_set}`."""
        return f"sampleQuerySets/{self.id}"


class EvaluationState(StrEnum):
    UNFINISHED = "UNFINISHED"
    FINISHED = "FINISHED"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A way to search.

    Attributes:
        search: The search request without its question; opaque here.
    """

    name: str
    search: bytes = b""


@dataclass(frozen=True, slots=True)
class Found:
    """What one query found by one configuration.

    Attributes:
        ranks: Of what is relevant.
        seconds: What the search took.
        hits: How many there were.
        lacking: Names of what is relevant, and is not there to be found.
    """

    ranks: Ranks
    seconds: float
    hits: int
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """Why one query found nothing by one configuration."""

    message: str


FoundByEach = tuple[Found | Failed, ...]
"""By each configuration."""


@dataclass(frozen=True, slots=True)
class Result:
    """How one configuration did.

    Attributes:
        measures: Means over the queries that were answered, one entry a cutoff.
        latencies_s: p50, p90, p95 and p99.
        lacking: Queries of which something relevant is not there to be found.
    """

    configuration: str
    measures: Sequence[Measures]
    latencies_s: Sequence[float]
    answered: int
    failed: int
    empty: int
    lacking: int


@dataclass(frozen=True, slots=True)
class Difference:
    """The second configuration's measure less the first's, over the queries that both answered."""

    measure: str
    k: int
    mean: float
    p_value: float
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What came out of an evaluation."""

    results: Sequence[Result]
    differences: Sequence[Difference]
    end_time: datetime


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was asked for, and what came out of it.

    Attributes:
        set_id: The sample query set it was made of.
        collections: What is searched where a configuration names nothing else.
        request: The request that made it; opaque here.
        job: `jobs/{job}`; "" until it is queued.
        conclusion: None until there is one.
    """

    tenant: str
    id: str
    description: str
    set_id: str
    collections: tuple[str, ...]
    configurations: tuple[Configuration, ...]
    query_count: int
    create_time: datetime
    purge_time: datetime
    shown_with: str
    request: bytes = b""
    job: str = ""
    conclusion: Conclusion | None = None

    @property
    def name(self) -> str:
        """`evaluations/{evaluation}`."""
        return f"evaluations/{self.id}"

    @property
    def state(self) -> EvaluationState:
        return EvaluationState.FINISHED if self.conclusion else EvaluationState.UNFINISHED


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one query did by one configuration.

    Attributes:
        measures: One entry a cutoff; empty where the search failed, and before it was made.
    """

    configuration: str
    found: Found | Failed | None
    measures: Sequence[Measures]


@dataclass(frozen=True, slots=True)
class EvaluatedQuery:
    """How one query did.

    Attributes:
        differences: The second configuration's measures less the first's, where both answered.
    """

    query: SampleQuery
    outcomes: Sequence[Outcome]
    differences: Sequence[Measures]


Queries = Mapping[str, SampleQuery]
"""By id, in the order of their set."""
