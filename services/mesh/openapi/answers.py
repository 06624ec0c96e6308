"""What any call may answer besides its result: the headers of all answers and the one error shape, by status."""

from collections.abc import Iterable
from typing import Any

from google.rpc import error_details_pb2 as details

from services.mesh.openapi.rules import Schema
from services.mesh.openapi.schemas import Schemas, component_name

HEADERS: dict[str, Any] = {
    "X-Request-Id": {
        "description": "The request's id, as sent or made up; names the call in all logs.",
        "required": True,
        "schema": {"type": "string", "maxLength": 128},
    },
    "X-Api-Version": {
        "description": "The version of the contract.",
        "required": True,
        "schema": {"type": "string", "const": "v1"},
    },
    "Retry-After": {
        "description": "Seconds until a retry may succeed; RetryInfo says the same.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "X-RateLimit-Limit": {
        "description": "Calls a minute of the caller's tier in the method's rate class, then with its window.",
        "schema": {"type": "string", "examples": ["100, 100;w=60"]},
    },
    "X-RateLimit-Remaining": {
        "description": "Calls left now. What is used up comes back little by little.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-RateLimit-Reset": {
        "description": "Seconds until the whole limit is there again.",
        "schema": {"type": "integer", "minimum": 0},
    },
}
_ALWAYS = ("X-Request-Id", "X-Api-Version")
_LIMITED = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_DETAILS = (details.ErrorInfo, details.BadRequest, details.QuotaFailure, details.RetryInfo)

# Status: name of the component, what it tells. The codes are gRPC's.
_REFUSALS: dict[int, tuple[str, str]] = {
    400: (
        "BadRequest",
        "INVALID_ARGUMENT (3): BadRequest names the fields. FAILED_PRECONDITION (9): the system's state forbids it. "
        "OUT_OF_RANGE (11).",
    ),
    401: ("Unauthenticated", "UNAUTHENTICATED (16): no token where one is needed, or one that is not accepted."),
    403: ("PermissionDenied", "PERMISSION_DENIED (7): the token does not grant the scope."),
    404: ("NotFound", "NOT_FOUND (5): the resource, or one the request names, does not exist for this tenant."),
    408: ("RequestTimeout", "DEADLINE_EXCEEDED (4): the request did not arrive in time."),
    409: ("Conflict", "ALREADY_EXISTS (6): the id or request id is taken. ABORTED (10): the etag is stale."),
    413: ("TooLarge", "INVALID_ARGUMENT (3): the body is larger than the edge takes."),
    415: ("UnsupportedMediaType", "INVALID_ARGUMENT (3): the body is not application/json."),
    429: (
        "TooManyRequests",
        "RESOURCE_EXHAUSTED (8): a rate limit, a quota or a full queue; QuotaFailure tells which. With the reason "
        "OVERLOADED more is asked of the service than it can answer in time.",
    ),
    431: ("HeadersTooLarge", "INVALID_ARGUMENT (3): the headers are larger than the edge takes."),
    499: ("Cancelled", "CANCELLED (1): the caller went away."),
    500: ("Internal", "INTERNAL (13): a fault of the mesh; the log has it under the request id."),
    502: ("BadGateway", "UNAVAILABLE (14): the service behind the path gave no valid answer."),
    503: ("Unavailable", "UNAVAILABLE (14): the service behind the path, or one it needs, does not answer."),
    504: ("DeadlineExceeded", "DEADLINE_EXCEEDED (4): the call did not end within its time."),
}
_RETRIED = (429, 502, 503)
ALWAYS = (400, 401, 403, 429, 431, 499, 500, 502, 503, 504)


def headers(status: int) -> dict[str, Any]:
    """References to the headers of an answer of this status."""
    names = [*_ALWAYS, *(_LIMITED if status in (200, 429) else ()), *(("Retry-After",) if status in _RETRIED else ())]
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def refusals(statuses: Iterable[int]) -> dict[str, Any]:
    """References to the refusals of an operation, by status."""
    return {str(each): {"$ref": f"#/components/responses/{_REFUSALS[each][0]}"} for each in sorted({*statuses})}


def unavailable(result: Schema) -> dict[str, Any]:
    """What a method answers with 503 whose result may be bad news: the result, or the refusal there is otherwise."""
    return {
        "description": "The result, where it is that nothing can be served; or " + _REFUSALS[503][1],
        "headers": headers(503),
        "content": {"application/json": {"schema": {"anyOf": [result, {"$ref": "#/components/schemas/Error"}]}}},
    }


def responses(schemas: Schemas) -> dict[str, Any]:
    """Every refusal as a component, all of one shape."""
    error = schemas.add("Error", _error(schemas))
    return {
        name: {
            "description": text,
            "headers": headers(status),
            "content": {"application/json": {"schema": error}},
        }
        for status, (name, text) in _REFUSALS.items()
    }


def _error(schemas: Schemas) -> Schema:
    return {
        "type": "object",
        "description": "Why a call failed: google.rpc.Status. The first detail is an ErrorInfo.",
        "required": ["code", "message", "details"],
        "properties": {
            "code": {"type": "integer", "minimum": 1, "maximum": 16, "description": "The gRPC status code."},
            "message": {"type": "string", "minLength": 1, "description": "For people: names the field or resource."},
            "details": {
                "type": "array",
                "description": "For programs: BadRequest names fields, QuotaFailure limits, RetryInfo when to retry.",
                "minItems": 1,
                "items": {"oneOf": [_detail(schemas, each) for each in _DETAILS]},
            },
        },
        "additionalProperties": False,
    }


def _detail(schemas: Schemas, message: Any) -> Schema:
    """A detail with the type that proto3 JSON writes into it."""
    kind = message.DESCRIPTOR
    typed = {"type": "string", "const": f"type.googleapis.com/{kind.full_name}"}
    schema = {"allOf": [schemas.refer(kind), {"required": ["@type"], "properties": {"@type": typed}}]}
    return schemas.add(f"{component_name(kind)}Detail", schema)
