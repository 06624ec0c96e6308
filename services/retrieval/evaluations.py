"""Evaluations: the queries of a set, each searched by one or two configurations, and what these came to."""

import asyncio
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from services.mesh.errors import DomainError, InvalidArgument, PermissionDenied
from services.mesh.filters import Field, FieldType, Schema, parse
from services.mesh.identity import Caller
from services.mesh.lists import Listing, Page, paginate
from services.mesh.receipts import Receipt, once
from services.retrieval.measures import MEASURES, chances, mean_measures, measured, percentile
from services.retrieval.ports_evaluation import EvaluationJobs, EvaluationStore, QueuedJob, Searcher
from services.retrieval.query import Query
from services.retrieval.query_sets import QuerySets
from services.retrieval.samples import (
    Conclusion,
    Configuration,
    Difference,
    Evaluation,
    EvaluationState,
    Found,
    FoundByEach,
    Queries,
    Result,
    SampleQuery,
    now,
)

DEFAULT_TOP_K: Final = 100

_PERCENTILES: Final = (0.5, 0.9, 0.95, 0.99)
# Evaluations whose queries are held ready: those of jobs under way.
_HELD: Final = 8
_FIELDS: Final = {
    "sample_query_set": Field(FieldType.STRING),
    "description": Field(FieldType.STRING),
    "job": Field(FieldType.STRING),
    "state": Field(FieldType.ENUM, values=tuple(EvaluationState)),
    "create_time": Field(FieldType.TIMESTAMP),
}
# `name` and `end_time` are for the order only.
_FILTERED_BY: Final = Schema(_FIELDS)
_LISTING: Final = Listing(
    Schema({**_FIELDS, "end_time": Field(FieldType.TIMESTAMP), "name": Field(FieldType.STRING)}),
    sortable=("name", "create_time", "end_time"),
    key="name",
    default_order="create_time desc",
)

Asking = Callable[[Configuration, Sequence[str], str], Query]
"""The search of a configuration for a question: over its own collections, else over those given."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """An evaluation as asked for; see Evaluation."""

    set_id: str
    description: str = ""
    collections: tuple[str, ...] = ()
    configurations: tuple[Configuration, ...] = ()
    request: bytes = b""


class Evaluations:
    """The evaluations of each tenant; another tenant's do not exist.

    Args:
        asking: Makes a search of a configuration and a question. Raises InvalidArgument for what none may have.
        retention: How long one is kept.
        most: How many a tenant has; the oldest make room.
    """

    def __init__(
        self,
        store: EvaluationStore,
        sets: QuerySets,
        searcher: Searcher,
        jobs: EvaluationJobs,
        asking: Asking,
        *,
        retention: timedelta,
        most: int,
    ) -> None:
        self._store = store
        self._sets = sets
        self._searcher = searcher
        self._jobs = jobs
        self._asking = asking
        self._retention = retention
        self._most = most
        self._held: OrderedDict[tuple[str, str], Queries] = OrderedDict()

    async def create(
        self, wanted: Wanted, who: Caller, *, receipt: Receipt | None = None, validate_only: bool = False
    ) -> QueuedJob:
        """The job that runs it. The first query is tried at once, so that what can answer none is refused here.

        Raises:
            PermissionDenied: The caller may not search.
            InvalidArgument, InvalidFilter: A field is wrong; named.
            SampleQuerySetNotFound, CollectionNotFound, CollectionDisabled: As getting the set and searching raise it.
            DependencyUnavailable: Something does not answer; where the evaluation was recorded before, the same request
                goes on from there.
            RequestIdReused: The receipt's id stands for another request.
        """

        async def work() -> QueuedJob:
            made, queries = await self._made(wanted, who)
            if validate_only:
                return await self._jobs.submit(made.id, made.shown_with, made.request, validate_only=True)
            return await self._submitted(who.tenant, await self._store.add(made, queries, self._most, receipt))

        async def recall(receipt: Receipt) -> QueuedJob | None:
            known = await self._store.recall(receipt)
            return await self._submitted(who.tenant, known) if known else None

        return await once(receipt, recall, work)

    async def get(self, tenant: str, evaluation_id: str) -> Evaluation:
        """Raises EvaluationNotFound."""
        return await self._store.get(tenant, evaluation_id)

    async def list_evaluations(
        self, tenant: str, *, filter: str, order_by: str, page_size: int, page_token: str, page: int
    ) -> Page[Evaluation]:
        """Raises InvalidArgument, InvalidFilter, InvalidPageToken."""
        parse(filter, _FILTERED_BY)
        query = _LISTING.query(filter=filter, order_by=order_by, page_size=page_size, page_token=page_token, page=page)
        return paginate(await self._store.all(tenant), query, _fields)

    async def query_ids(self, tenant: str, evaluation_id: str, offset: int, limit: int) -> tuple[list[str], int]:
        """Ids of some of its queries, in order, and how many there are. Raises EvaluationNotFound."""
        ids = list(await self._queries(tenant, evaluation_id))
        return ids[offset : offset + limit], len(ids)

    async def run(self, evaluation_id: str, query_id: str, who: Caller, *, timeout_s: float | None = None) -> None:
        """Searches for a query by each configuration, as the caller, and keeps what it found.

        Raises:
            EvaluationNotFound: There is none, or no such query in it.
            DomainError: What a search raised; what the other one found is kept all the same.
        """
        evaluation = await self._store.get(who.tenant, evaluation_id)
        query = (await self._queries(who.tenant, evaluation_id)).get(query_id)
        if query is None:
            raise InvalidArgument.of("query_id", f"{evaluation.name} has no query {query_id!r}")
        found: list[Found | None] = []
        failed: DomainError | None = None
        for configuration in evaluation.configurations:
            try:
                found.append(await self._found(evaluation, configuration, query, who, timeout_s))
            except DomainError as error:
                found.append(None)
                failed = failed or error
        await self._store.keep(who.tenant, evaluation_id, query_id, tuple(found))
        if evaluation.conclusion is not None:  # a query that failed before is tried again
            await self.conclude(who.tenant, evaluation_id)
        if failed is not None:
            raise failed

    async def conclude(self, tenant: str, evaluation_id: str) -> None:
        """Keeps what its queries came to; those that found nothing yet have failed. Raises EvaluationNotFound."""
        evaluation = await self._store.get(tenant, evaluation_id)
        queries = await self._queries(tenant, evaluation_id)
        found = await self._store.found(tenant, evaluation_id)
        conclusion = await asyncio.to_thread(_concluded, evaluation.configurations, queries, found)
        await self._store.conclude(tenant, evaluation_id, conclusion)

    async def _made(self, wanted: Wanted, who: Caller) -> tuple[Evaluation, Sequence[SampleQuery]]:
        if "search" not in who.scopes:
            raise PermissionDenied("an evaluation searches: it takes the scope search, too")
        configurations = wanted.configurations or (Configuration("default"),)
        if len({each.name for each in configurations}) < len(configurations):
            raise InvalidArgument.of("evaluation.configurations", f"two are called {configurations[0].name!r}")
        tried = await self._sets.get(who.tenant, wanted.set_id)
        asked = [self._asking(each, wanted.collections, tried.queries[0].text) for each in configurations]
        for query in asked:
            await self._searcher.search(query, who)
        made_at = now()
        made = Evaluation(
            tenant=who.tenant,
            id=f"e-{secrets.token_hex(8)}",
            description=wanted.description,
            set_id=wanted.set_id,
            collections=wanted.collections,
            configurations=configurations,
            query_count=len(tried.queries),
            create_time=made_at,
            purge_time=made_at + self._retention,
            shown_with=asked[0].collection_ids[0],
            request=wanted.request,
        )
        return made, tried.queries

    async def _submitted(self, tenant: str, evaluation_id: str) -> QueuedJob:
        made = await self._store.get(tenant, evaluation_id)
        job = await self._jobs.submit(made.id, made.shown_with, made.request)
        if made.job != job.name:
            await self._store.queued(tenant, made.id, job.name)
        return job

    async def _queries(self, tenant: str, evaluation_id: str) -> Queries:
        """Its queries, which never change."""
        key = (tenant, evaluation_id)
        if key not in self._held:
            found = await self._store.queries(tenant, evaluation_id)
            self._held[key] = {query.id: query for query in found}
            while len(self._held) > _HELD:
                self._held.popitem(last=False)
        self._held.move_to_end(key)
        return self._held[key]

    async def _found(
        self,
        evaluation: Evaluation,
        configuration: Configuration,
        query: SampleQuery,
        who: Caller,
        timeout_s: float | None,
    ) -> Found:
        asked = self._asking(configuration, evaluation.collections, query.text)
        started_s = time.perf_counter()
        answer = await self._searcher.search(asked, who, timeout_s=timeout_s)
        spent_s = time.perf_counter() - started_s
        return Found(query.ranks(answer.hits), spent_s, len(answer.hits))


def _concluded(
    configurations: Sequence[Configuration], queries: Queries, found: Mapping[str, FoundByEach]
) -> Conclusion:
    results = []
    for at, configuration in enumerate(configurations):
        answered = {id_: each[at] for id_, each in found.items() if id_ in queries}
        results.append(_result(configuration.name, queries, {id_: one for id_, one in answered.items() if one}))
    both = {id_: each for id_, each in found.items() if id_ in queries and len(each) == 2 and all(each)}
    return Conclusion(results, _differences(queries, both), now())


def _result(name: str, queries: Queries, answered: Mapping[str, Found]) -> Result:
    latencies_s = sorted(each.seconds for each in answered.values())
    return Result(
        configuration=name,
        measures=mean_measures([measured(each.ranks, queries[id_].grades) for id_, each in answered.items()]),
        latencies_s=[percentile(latencies_s, share) for share in _PERCENTILES],
        answered=len(answered),
        failed=len(queries) - len(answered),
        empty=sum(not each.hits for each in answered.values()),
    )


def _differences(queries: Queries, both: Mapping[str, FoundByEach]) -> list[Difference]:
    rows = []
    kinds: list[tuple[str, int]] = []
    for id_ in sorted(both):
        first, second = (measured(each.ranks, queries[id_].grades) for each in both[id_] if each)
        kinds = [(name, each.k) for name in MEASURES for each in first]
        ones, others = ([getattr(each, name) for name in MEASURES for each in of] for of in (first, second))
        rows.append([other - one for one, other in zip(ones, others, strict=True)])
    return [
        Difference(name, k, sum(column) / len(column), chance, sum(x > 0 for x in column), sum(x < 0 for x in column))
        for (name, k), column, chance in zip(kinds, zip(*rows, strict=True), chances(rows) if rows else [], strict=True)
    ]


def _fields(evaluation: Evaluation) -> Mapping[str, Any]:
    return {
        "name": evaluation.name,
        "sample_query_set": f"sampleQuerySets/{evaluation.set_id}",
        "description": evaluation.description,
        "job": evaluation.job,
        "state": str(evaluation.state),
        "create_time": evaluation.create_time,
        "end_time": evaluation.conclusion and evaluation.conclusion.end_time,
    }
