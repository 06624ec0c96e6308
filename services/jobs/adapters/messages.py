"""Parts of messages that both the contract and the internal services use."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import MessageToDict, SerializeToJsonError
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from ragweave.v1.document_pb2 import Document
from services.jobs.job import Failure
from services.mesh.errors import InvalidArgument
from services.mesh.status import DOMAIN


def struct_to(values: Mapping[str, Any]) -> Struct | None:
    if not values:
        return None
    struct = Struct()
    struct.update(dict(values))
    return struct


def struct_from(struct: Struct, field: str) -> dict[str, Any]:
    """Raises InvalidArgument for what JSON has no number for, naming the field."""
    try:
        return MessageToDict(struct)
    except (ValueError, SerializeToJsonError):
        raise InvalidArgument.of(field, "holds a number that is not finite, or a value without a kind") from None


def principals_to(principals: Sequence[str]) -> Document.Acl | None:
    return Document.Acl(principals=principals) if principals else None


def status_to(failure: Failure) -> Status:
    packed = AnyMessage()
    packed.Pack(ErrorInfo(reason=failure.reason, domain=DOMAIN))
    return Status(code=failure.code, message=failure.message, details=[packed])
