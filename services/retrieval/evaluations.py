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
from services.retrieval.conclusions import concluded, evaluated_query
from services.retrieval.measures import CUTOFFS
from services.retrieval.ports_evaluation import EvaluationJobs, EvaluationStore, QueuedJob, Searcher
from services.retrieval.query import Query
from services.retrieval.query_sets import QuerySets
from services.retrieval.samples import (
    Configuration,
    EvaluatedQuery,
    Evaluation,
    EvaluationState,
    Failed,
    Found,
    Queries,
    SampleQuery,
    now,
)

DEFAULT_TOP_K: Final = 100

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

_QUERY_LISTING: Final = Listing(
    Schema(
        {
            "id": Field(FieldType.STRING),
            "text": Field(FieldType.STRING),
            "failed": Field(FieldType.BOOL),
            "lacking": Field(FieldType.BOOL),
            "ndcg": Field(FieldType.NUMBER),
            "difference": Field(FieldType.NUMBER),
        }
    ),
    sortable=("id", "ndcg", "difference"),
    key="id",
)
_NDCG_AT: Final = CUTOFFS.index(10)

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

    async def list_queries(
        self,
        tenant: str,
        evaluation_id: str,
        *,
        filter: str,
        order_by: str,
        page_size: int,
        page_token: str,
        page: int,
    ) -> Page[EvaluatedQuery]:
        """How each query did, so far. Raises EvaluationNotFound, InvalidArgument, InvalidFilter, InvalidPageToken."""
        evaluation = await self._store.get(tenant, evaluation_id)
        query = _QUERY_LISTING.query(
            filter=filter,
            order_by=order_by,
            page_size=page_size,
            page_token=page_token,
            page=page,
            parent=evaluation.name,
        )
        queries = await self._queries(tenant, evaluation_id)
        found = await self._store.found(tenant, evaluation_id)
        evaluated = (
            evaluated_query(evaluation.configurations, each, found.get(id_, ())) for id_, each in queries.items()
        )
        return await asyncio.to_thread(paginate, evaluated, query, _query_fields)

    async def query_ids(self, tenant: str, evaluation_id: str, offset: int, limit: int) -> tuple[list[str], int]:
        """Ids of some of its queries, in order, and how many there are. Raises EvaluationNotFound."""
        ids = list(await self._queries(tenant, evaluation_id))
        return ids[offset : offset + limit], len(ids)

    async def run(self, evaluation_id: str, query_id: str, who: Caller, *, timeout_s: float | None = None) -> None:
        """Searches for a query by each configuration, as the caller, and keeps what it found.

        Args:
            timeout_s: What is left of the caller's time; each configuration has an equal share.

        Raises:
            EvaluationNotFound: There is none, or no such query in it.
            DomainError: What a search raised; what the other one found is kept all the same.
        """
        evaluation = await self._store.get(who.tenant, evaluation_id)
        query = (await self._queries(who.tenant, evaluation_id)).get(query_id)
        if query is None:
            raise InvalidArgument.of("query_id", f"{evaluation.name} has no query {query_id!r}")
        share_s = None if timeout_s is None else timeout_s / len(evaluation.configurations)
        found: list[Found | Failed] = []
        failed: DomainError | None = None
        for configuration in evaluation.configurations:
            try:
                found.append(await self._found(evaluation, configuration, query, who, share_s))
            except DomainError as error:
                found.append(Failed(error.message))
                failed = failed or error
        await self._store.keep(who.tenant, evaluation_id, query_id, tuple(found))
        if failed is not None:
            raise failed

    async def conclude(self, tenant: str, evaluation_id: str) -> None:
        """Keeps what its queries came to; those that found nothing yet have failed. Raises EvaluationNotFound."""
        evaluation = await self._store.get(tenant, evaluation_id)
        queries = await self._queries(tenant, evaluation_id)
        found = await self._store.found(tenant, evaluation_id)
        conclusion = await asyncio.to_thread(concluded, evaluation.configurations, queries, found)
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
        ranks, unfound = query.ranks(answer.hits)
        lacking = await self._searcher.lacking(unfound, asked.collection_ids, who) if unfound else ()
        return Found(ranks, spent_s, len(answer.hits), tuple(lacking))


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


def _query_fields(evaluated: EvaluatedQuery) -> Mapping[str, Any]:
    """As `list_queries` filters and orders them: by what the last configuration found."""
    outcomes, last = [each.found for each in evaluated.outcomes], evaluated.outcomes[-1]
    return {
        "id": evaluated.query.id,
        "text": evaluated.query.text,
        "failed": any(isinstance(each, Failed) for each in outcomes),
        "lacking": any(isinstance(each, Found) and each.lacking for each in outcomes),
        "ndcg": last.measures[_NDCG_AT].ndcg if last.measures else None,
        "difference": evaluated.differences[_NDCG_AT].ndcg if evaluated.differences else None,
    }
