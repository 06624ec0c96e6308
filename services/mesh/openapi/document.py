"""The whole document: an operation for each REST form of each public method."""

from collections.abc import Iterable
from typing import Any

from google.protobuf.descriptor import Descriptor

from ragweave.contract import Method
from services.mesh.openapi import answers
from services.mesh.openapi.comments import Comments
from services.mesh.openapi.operations import SECURITY, Operations, body_of, resource_ids
from services.mesh.openapi.schemas import Schemas, reachable
from services.mesh.tokens import ROLES

_ABOUT = """\
Retrieval for other backends: documents in, ranked and cited passages out. The same contract is served over gRPC.

**JSON** is proto3 JSON with `lowerCamelCase` names; requests may spell a field as its `.proto` does (`top_k`) too.
Times are RFC 3339 text, durations text such as `"3.5s"`, 64-bit numbers text, bytes base64. `null` reads as not given.
A body field or query parameter that is not described here is refused.

**Errors** have one shape, `Error`, whoever refuses. Fields at fault go by their JSON names, as in the request.

**Identity** is a JWT in `authorization: Bearer ...`; the tenant is the token's. `x-scope` is what it must grant, by its
`scope` or by one of the roles in `x-roles`.

**Streams** answer with one JSON object a line, or with server-sent events where `accept` asks for `text/event-stream`:
each object is the `data` of one. The last one carries `finalStatus`, also when the stream failed.

Answers may gain fields: ignore those you do not know.
"""


def document(methods: Iterable[Method], comments: Comments) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the public methods that have a REST form, as JSON.

    Raises:
        UnsupportedRule: The contract bounds a field in a way the document cannot show.
        AmbiguousName: Two messages would share a component's name.
    """
    served = [each for each in methods if each.http and not each.internal]
    bodies = [body for each in served for binding in each.http if (body := body_of(each, binding)) is not None]
    schemas = Schemas(comments, reachable(bodies))
    operations = Operations(schemas, comments, resource_ids(_messages(served)))
    paths: dict[str, dict[str, Any]] = {}
    for method in served:
        for at, binding in enumerate(method.http):
            path = paths.setdefault(operations.path(binding), {})
            path[binding.verb.lower()] = operations.operation(method, at)
    responses = answers.responses(schemas)
    services = {each.service: each.descriptor.containing_service for each in served}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Ragweave", "version": "v1", "description": _ABOUT},
        "servers": [{"url": "http://localhost:8080", "description": "The edge, as `ragweave up` starts it."}],
        "tags": [{"name": each.name, "description": comments.of(each)} for each in services.values()],
        "paths": paths,
        "components": {
            "schemas": schemas.components(),
            "responses": responses,
            "headers": answers.HEADERS,
            "securitySchemes": {SECURITY: _security()},
        },
    }


def _messages(methods: Iterable[Method]) -> list[Descriptor]:
    """Every message of the files that requests and answers come from."""
    ends = (each for method in methods for each in (method.descriptor.input_type, method.descriptor.output_type))
    files = {message.file.name: message.file for message in ends}
    return [message for file in files.values() for message in file.message_types_by_name.values()]


def _security() -> dict[str, Any]:
    grants = "; ".join(f"{role}: {', '.join(sorted(scopes))}" for role, scopes in ROLES.items())
    return {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": f"Claims: `sub`, `tenant`, `scope` or `roles`, `tier`, `exp`. What roles grant: {grants}.",
    }
