"""The EvaluationRuns port over EvaluationRunService."""

import grpc

from ragweave.internal.v1 import evaluation_run_service_pb2 as pb
from ragweave.internal.v1.evaluation_run_service_pb2_grpc import EvaluationRunServiceStub


class EvaluationRunsClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = EvaluationRunServiceStub(channel)

    async def queries(self, evaluation_id: str, offset: int, limit: int) -> tuple[list[str], int]:
        request = pb.ListEvaluationQueriesRequest(evaluation_id=evaluation_id, offset=offset, limit=limit)
        found = await self._stub.ListEvaluationQueries(request)
        return list(found.query_ids), found.total_size

    async def run(self, evaluation_id: str, query_id: str) -> None:
        request = pb.RunEvaluationQueryRequest(evaluation_id=evaluation_id, query_id=query_id)
        await self._stub.RunEvaluationQuery(request)

    async def conclude(self, evaluation_id: str) -> None:
        await self._stub.ConcludeEvaluation(pb.ConcludeEvaluationRequest(evaluation_id=evaluation_id))
