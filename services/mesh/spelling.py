"""The names of fields in refusals, spelt as the caller spells them: gRPC by the `.proto`, REST by JSON."""

import re

from google.protobuf.descriptor import Descriptor
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from ragweave.contract import Method

# One step of a path and its subscripts: `documents[2]`, `labels["a key"]`.
_STEP = re.compile(r'\.?([a-z][a-z0-9_]*)((?:\[(?:[0-9]+|"[^"]*")\])*)')


def for_rest(status: Status, method: Method) -> Status:
    """The Status of a REST call: fields by their JSON names, in the body that was sent and not in the whole request.

    Services name a field once, by the contract (`collection.chunking.max_tokens`); who sent JSON knows it as
    `chunking.maxTokens`. A message that begins with the field is changed with it.
    """
    spelt = Status(code=status.code, message=status.message)
    for detail in status.details:
        bad = details.BadRequest()
        packed = spelt.details.add()
        packed.CopyFrom(detail)
        if not detail.Unpack(bad):
            continue
        for violation in bad.field_violations:
            named, violation.field = violation.field, json_path(violation.field, method)
            if named and spelt.message.startswith(f"{named}:"):
                spelt.message = violation.field + spelt.message[len(named) :]
        packed.Pack(bad)
    return spelt


def json_path(path: str, method: Method) -> str:
    """A path in the method's request, as in `collection.labels["a_b"]`, as its REST form has it: `labels["a_b"]`.

    What is no field of the request stays as it is: keys of maps and of free JSON.
    """
    bodies = {binding.body for binding in method.http}
    head, _, rest = path.partition(".")
    spelt = _spelt(path, method.descriptor.input_type)
    return spelt.partition(".")[2] if rest and head in bodies else spelt


def _spelt(path: str, message: Descriptor | None) -> str:
    step = _STEP.match(path)
    field = message.fields_by_name.get(step[1]) if message is not None and step is not None else None
    if step is None or field is None:
        return path
    dot = "." if path.startswith(".") else ""
    return f"{dot}{field.json_name}{step[2]}{_spelt(path[step.end() :], field.message_type)}"
