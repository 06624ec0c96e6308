"""Between the contract's evaluations and the domain's."""

from collections.abc import Sequence
from typing import Any, Final

from google.protobuf.any_pb2 import Any as AnyMessage

from ragweave.v1 import evaluation_pb2
from ragweave.v1 import evaluation_service_pb2 as pb
from ragweave.v1.search_pb2 import SearchRequest
from services.mesh.convert_times import duration_to, time_to
from services.mesh.errors import InvalidArgument, Violation
from services.mesh.lists import Page
from services.retrieval.convert import query_from
from services.retrieval.evaluations import DEFAULT_TOP_K, Wanted
from services.retrieval.measures import Measures
from services.retrieval.query import Query
from services.retrieval.query_sets import Given
from services.retrieval.samples import (
    Configuration,
    Difference,
    EvaluatedQuery,
    Evaluation,
    Failed,
    Found,
    Outcome,
    QuerySet,
    Result,
    SampleQuery,
)

# What a configuration leaves to the evaluation.
_ITS_OWN: Final = (
    "query",
    "vector",
    "page_size",
    "page_token",
    "page",
    "consistency_token",
    "cache_control",
    "explain",
)


def query_of(configuration: Configuration, collections: Sequence[str], text: str) -> Query:
    """The search of a configuration for a question, past the result cache and with all of its stages; over its own
    collections, else those given.

    Raises:
        InvalidArgument: It has a field that is the evaluation's to give; named.
    """
    request = SearchRequest.FromString(configuration.search)
    given = [name for name in _ITS_OWN if name in {field.name for field, _ in request.ListFields()}]
    if given:
        fields = [f"evaluation.configurations[{configuration.name}].search.{name}" for name in given]
        raise InvalidArgument(
            f"{fields[0]}: is not a configuration's to give",
            violations=[Violation(field, "is not a configuration's to give") for field in fields],
        )
    request.query = text
    request.top_k = request.top_k or DEFAULT_TOP_K
    request.cache_control = SearchRequest.BYPASS
    request.require_all = True
    if not request.collection and not request.collections:
        request.collections.extend(collections)
    return query_from(request)


def created_from(request: pb.CreateSampleQuerySetRequest) -> Given:
    return Given(_fields_from(request.sample_query_set))


def updated_from(request: pb.UpdateSampleQuerySetRequest) -> Given:
    changed = request.sample_query_set
    return Given(_fields_from(changed), paths=tuple(request.update_mask.paths), etag=changed.etag)


def _fields_from(given: evaluation_pb2.SampleQuerySet) -> dict[str, Any]:
    """The fields that are set."""
    queries = tuple(
        SampleQuery(each.id, each.text, tuple((one.name, one.grade) for one in each.relevant)) for each in given.queries
    )
    fields: dict[str, Any] = {"description": given.description, "queries": queries}
    return {name: value for name, value in fields.items() if value}


def set_to(found: QuerySet) -> evaluation_pb2.SampleQuerySet:
    return evaluation_pb2.SampleQuerySet(
        name=found.name,
        description=found.description,
        queries=[
            evaluation_pb2.SampleQuery(
                id=each.id,
                text=each.text,
                relevant=[
                    evaluation_pb2.SampleQuery.Judgement(name=name, grade=grade) for name, grade in each.judgements
                ],
            )
            for each in found.queries
        ],
        query_count=found.query_count,
        create_time=time_to(found.create_time),
        update_time=time_to(found.update_time),
        etag=found.etag,
    )


def sets_to(page: Page[QuerySet]) -> pb.ListSampleQuerySetsResponse:
    return pb.ListSampleQuerySetsResponse(
        sample_query_sets=[set_to(each) for each in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def wanted_from(request: pb.CreateEvaluationRequest) -> Wanted:
    packed = AnyMessage()
    packed.Pack(request)
    asked = request.evaluation
    return Wanted(
        set_id=asked.sample_query_set.removeprefix("sampleQuerySets/"),
        description=asked.description,
        collections=tuple(asked.collections),
        configurations=tuple(
            Configuration(each.name, each.search.SerializeToString()) for each in asked.configurations
        ),
        request=packed.SerializeToString(),
    )


def evaluation_to(found: Evaluation) -> evaluation_pb2.Evaluation:
    conclusion = found.conclusion
    return evaluation_pb2.Evaluation(
        name=found.name,
        description=found.description,
        sample_query_set=f"sampleQuerySets/{found.set_id}",
        collections=[f"collections/{each.removeprefix('collections/')}" for each in found.collections],
        configurations=[
            evaluation_pb2.Evaluation.Configuration(name=each.name, search=SearchRequest.FromString(each.search))
            for each in found.configurations
        ],
        state=evaluation_pb2.Evaluation.State.Value(found.state),
        job=found.job,
        query_count=found.query_count,
        results=[_result_to(each) for each in conclusion.results] if conclusion else [],
        differences=[_difference_to(each) for each in conclusion.differences] if conclusion else [],
        create_time=time_to(found.create_time),
        end_time=time_to(conclusion.end_time) if conclusion else None,
        purge_time=time_to(found.purge_time),
    )


def evaluations_to(page: Page[Evaluation]) -> pb.ListEvaluationsResponse:
    return pb.ListEvaluationsResponse(
        evaluations=[evaluation_to(each) for each in page.items],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def evaluated_to(page: Page[EvaluatedQuery]) -> pb.ListEvaluatedQueriesResponse:
    return pb.ListEvaluatedQueriesResponse(
        queries=[
            evaluation_pb2.EvaluatedQuery(
                id=each.query.id,
                text=each.query.text,
                outcomes=[_outcome_to(outcome) for outcome in each.outcomes],
                differences=[_measures_to(difference) for difference in each.differences],
            )
            for each in page.items
        ],
        next_page_token=page.next_page_token,
        total_size=page.total_size,
    )


def _outcome_to(outcome: Outcome) -> evaluation_pb2.EvaluatedQuery.Outcome:
    made = evaluation_pb2.EvaluatedQuery.Outcome(configuration=outcome.configuration)
    match outcome.found:
        case Failed(message):
            made.error = message
        case Found() as found:
            made.measures.extend(map(_measures_to, outcome.measures))
            made.latency.CopyFrom(duration_to(found.seconds))
            made.hit_count = found.hits
            made.lacking.extend(found.lacking)
    return made


def _result_to(result: Result) -> evaluation_pb2.Evaluation.Result:
    p50, p90, p95, p99 = map(duration_to, result.latencies_s)
    return evaluation_pb2.Evaluation.Result(
        configuration=result.configuration,
        measures=[_measures_to(each) for each in result.measures],
        latency=evaluation_pb2.Evaluation.Latency(p50=p50, p90=p90, p95=p95, p99=p99),
        answered=result.answered,
        failed=result.failed,
        empty=result.empty,
        lacking=result.lacking,
    )


def _measures_to(each: Measures) -> evaluation_pb2.Evaluation.Measures:
    return evaluation_pb2.Evaluation.Measures(
        k=each.k, recall=each.recall, precision=each.precision, mrr=each.mrr, ndcg=each.ndcg
    )


def _difference_to(each: Difference) -> evaluation_pb2.Evaluation.Difference:
    return evaluation_pb2.Evaluation.Difference(
        measure=each.measure, k=each.k, mean=each.mean, p_value=each.p_value, better=each.better, worse=each.worse
    )
