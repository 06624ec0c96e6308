"""What a refused or failed call says, in one shape."""

from typing import Self

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status


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
        for detail in status.details if status else ():
            if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
                info = error_details_pb2.ErrorInfo()
                detail.Unpack(info)
                made.reason, made.metadata = info.reason, dict(info.metadata)
            elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                bad = error_details_pb2.BadRequest()
                detail.Unpack(bad)
                made.violations = {each.field: each.description for each in bad.field_violations}
            elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                retry = error_details_pb2.RetryInfo()
                detail.Unpack(retry)
                made.retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
        return made
