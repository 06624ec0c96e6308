"""Every server's answer to how it is."""

from typing import Any

import grpc

from ragweave.internal.v1 import process_service_pb2 as pb
from ragweave.internal.v1.process_service_pb2_grpc import ProcessServiceServicer
from ragweave.v1.health_pb2 import Health
from services.mesh.convert_reports import process_to
from services.mesh.this_process import ThisProcess


class ProcessServicer(ProcessServiceServicer):
    def __init__(self, process: ThisProcess) -> None:
        self._process = process

    async def GetProcess(
        self, request: pb.GetProcessRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Health.Process:
        return process_to(await self._process.report())
