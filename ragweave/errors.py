"""What a refused or failed call says, in one shape."""

from typing import Self

import grpc
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RagweaveError(Exception):
    """A call that was refused or failed.

    Attributes:
        code: The gRPC status code.
        message: One sentence from the server.
        reason: For programs, such as COLLECTION_NOT_FOUND; "" where none was sent.
        violations: Fields at fault with what is wrong with each.
        metadata: Strings for programs.
        retry_after_s: Seconds until a retry may succeed; None where not said.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self.reason = ""
        self.violations: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        self.retry_after_s: float | None = None

    @classmethod
    def of(cls, error: grpc.RpcError) -> Self:
        """Reads the status and the google.rpc details a server sent."""
        made = cls(error.code(), error.details() or "")
        try:
            status = rpc_status.from_call(error)  # type: ignore[arg-type]
        except (ValueError, TypeError):  # details that contradict the status: keep what the status says
            return made
        if status is not None:
            made._take(status)
        return made

    @classmethod
    def of_status(cls, status: Status) -> Self:
        """Reads the status that a stream ended with."""
        made = cls(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message)
        made._take(status)
        return made

    def _take(self, status: Status) -> None:
        for detail in status.details:
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                self.reason, self.metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                self.violations = {each.field: each.description for each in bad.field_violations}
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                self.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
