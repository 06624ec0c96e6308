"""Jobs of evaluations, from the jobs service."""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from ragweave.internal.v1 import evaluation_job_service_pb2 as pb
from ragweave.internal.v1.evaluation_job_service_pb2_grpc import EvaluationJobServiceStub
from services.mesh.errors import DependencyUnavailable
from services.retrieval.ports_evaluation import QueuedJob


class JobsClient:
    """Fulfils EvaluationJobs."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._service = EvaluationJobServiceStub(channel)

    async def submit(
        self, evaluation_id: str, collection_id: str, request: bytes, *, validate_only: bool = False
    ) -> QueuedJob:
        asked = pb.SubmitEvaluationRequest(
            evaluation_id=evaluation_id,
            collection_id=collection_id,
            request=AnyMessage.FromString(request),
            validate_only=validate_only,
        )
        try:
            job = await self._service.SubmitEvaluation(asked)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise DependencyUnavailable("jobs is unavailable", retry_after_s=1.0, service="jobs") from None
        return QueuedJob(job.name, job.SerializeToString())
