"""The evaluation methods of the retrieval service: messages in, domain calls, messages out."""

from typing import Any

import grpc

from ragweave.internal.v1 import evaluation_run_service_pb2 as run_pb
from ragweave.internal.v1.evaluation_run_service_pb2_grpc import EvaluationRunServiceServicer
from ragweave.v1 import evaluation_pb2, job_pb2
from ragweave.v1 import evaluation_service_pb2 as pb
from ragweave.v1.evaluation_service_pb2_grpc import EvaluationServiceServicer
from services.mesh.calls import current_call
from services.mesh.identity import caller
from services.mesh.receipts import receipt_from
from services.retrieval import convert_evaluations as convert
from services.retrieval.evaluations import Evaluations
from services.retrieval.query_sets import QuerySets

Context = grpc.aio.ServicerContext[Any, Any]


class EvaluationServicer(EvaluationServiceServicer):
    def __init__(self, sets: QuerySets, evaluations: Evaluations) -> None:
        self._sets = sets
        self._evaluations = evaluations

    async def CreateSampleQuerySet(
        self, request: pb.CreateSampleQuerySetRequest, context: Context
    ) -> evaluation_pb2.SampleQuerySet:
        created = await self._sets.create(
            caller(context).tenant,
            request.sample_query_set_id,
            convert.created_from(request),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.set_to(created)

    async def ListSampleQuerySets(
        self, request: pb.ListSampleQuerySetsRequest, context: Context
    ) -> pb.ListSampleQuerySetsResponse:
        page = await self._sets.list_sets(
            caller(context).tenant,
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.sets_to(page)

    async def GetSampleQuerySet(
        self, request: pb.GetSampleQuerySetRequest, context: Context
    ) -> evaluation_pb2.SampleQuerySet:
        return convert.set_to(await self._sets.get(caller(context).tenant, _id(request.name)))

    async def UpdateSampleQuerySet(
        self, request: pb.UpdateSampleQuerySetRequest, context: Context
    ) -> evaluation_pb2.SampleQuerySet:
        updated = await self._sets.update(
            caller(context).tenant,
            _id(request.sample_query_set.name),
            convert.updated_from(request),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.set_to(updated)

    async def DeleteSampleQuerySet(
        self, request: pb.DeleteSampleQuerySetRequest, context: Context
    ) -> evaluation_pb2.SampleQuerySet:
        deleted = await self._sets.delete(
            caller(context).tenant,
            _id(request.name),
            etag=request.etag,
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return convert.set_to(deleted)

    async def CreateEvaluation(self, request: pb.CreateEvaluationRequest, context: Context) -> job_pb2.Job:
        queued = await self._evaluations.create(
            convert.wanted_from(request),
            caller(context),
            receipt=receipt_from(request, caller(context)),
            validate_only=request.validate_only,
        )
        return job_pb2.Job.FromString(queued.message)

    async def ListEvaluations(self, request: pb.ListEvaluationsRequest, context: Context) -> pb.ListEvaluationsResponse:
        page = await self._evaluations.list_evaluations(
            caller(context).tenant,
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.evaluations_to(page)

    async def GetEvaluation(self, request: pb.GetEvaluationRequest, context: Context) -> evaluation_pb2.Evaluation:
        return convert.evaluation_to(await self._evaluations.get(caller(context).tenant, _id(request.name)))

    async def ListEvaluatedQueries(
        self, request: pb.ListEvaluatedQueriesRequest, context: Context
    ) -> pb.ListEvaluatedQueriesResponse:
        page = await self._evaluations.list_queries(
            caller(context).tenant,
            _id(request.parent),
            filter=request.filter,
            order_by=request.order_by,
            page_size=request.page_size,
            page_token=request.page_token,
            page=request.page,
        )
        return convert.evaluated_to(page)


class EvaluationRunServicer(EvaluationRunServiceServicer):
    def __init__(self, evaluations: Evaluations) -> None:
        self._evaluations = evaluations

    async def ListEvaluationQueries(
        self, request: run_pb.ListEvaluationQueriesRequest, context: Context
    ) -> run_pb.ListEvaluationQueriesResponse:
        ids, total = await self._evaluations.query_ids(
            caller(context).tenant, request.evaluation_id, request.offset, request.limit
        )
        return run_pb.ListEvaluationQueriesResponse(query_ids=ids, total_size=total)

    async def RunEvaluationQuery(
        self, request: run_pb.RunEvaluationQueryRequest, context: Context
    ) -> run_pb.RunEvaluationQueryResponse:
        call = current_call()
        await self._evaluations.run(
            request.evaluation_id,
            request.query_id,
            caller(context),
            timeout_s=call.remaining_s() if call else None,
        )
        return run_pb.RunEvaluationQueryResponse()

    async def ConcludeEvaluation(
        self, request: run_pb.ConcludeEvaluationRequest, context: Context
    ) -> run_pb.ConcludeEvaluationResponse:
        await self._evaluations.conclude(caller(context).tenant, request.evaluation_id)
        return run_pb.ConcludeEvaluationResponse()


def _id(name: str) -> str:
    return name.rpartition("/")[2]
