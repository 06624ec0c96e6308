"""What Envoy itself refuses, in the contract's one error shape: JSON to REST callers, a google.rpc.Status to gRPC's."""

import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.mesh.admission import SHED_HEADER
from services.mesh.edge_settings import EdgeSettings
from services.mesh.errors import Overloaded

DOMAIN = "ragweave"

Filter = Mapping[str, Any]

# What a local reply is told apart by, as Envoy's access log filters.
_JWT = {"filter": "envoy.filters.http.jwt_authn", "path": [{"key": "jwt"}, {"key": "sub"}]}
# True where no token was verified: the value is one no token has. Envoy ignores `invert` here.
_UNVERIFIED: Filter = {
    "metadata_filter": {
        "matcher": {**_JWT, "value": {"string_match": {"exact": ""}}},
        "match_if_key_not_found": True,
    }
}
_FIELD_NAMED: Filter = {
    "metadata_filter": {
        "matcher": {"filter": "ragweave.edge", "path": [{"key": "problem"}], "value": {"present_match": True}},
        "match_if_key_not_found": False,
    }
}


_OVERLOADED: Filter = {
    "metadata_filter": {
        "matcher": {"filter": "ragweave.edge", "path": [{"key": "overloaded"}], "value": {"present_match": True}},
        "match_if_key_not_found": False,
    }
}


def _header(name: str, **match: Any) -> Filter:
    return {"header_filter": {"header": {"name": name, **match}}}


# The transcoder leaves the path a REST caller asked for here, and makes the content type gRPC's.
_TRANSCODED = _header("x-envoy-original-path", present_match=True)
# Seen only before the filter that speaks gRPC-Web, which makes them gRPC's.
_GRPC_WEB = _header("content-type", string_match={"prefix": "application/grpc-web"})
_GRPC_WEB_TEXT = _header("content-type", string_match={"prefix": "application/grpc-web-text"})
# As Envoy judges it: another type that only begins so is not gRPC's.
_GRPC = r"application/grpc(-web(-text)?)?(\+.*)?"
_REST_CALLER: Filter = {
    "or_filter": {
        "filters": [
            _header(
                "content-type",
                string_match={"safe_regex": {"regex": _GRPC}},
                invert_match=True,
                treat_missing_header_as_empty=True,
            ),
            _TRANSCODED,
        ]
    }
}


@dataclass(frozen=True)
class Refusal:
    """One way Envoy refuses, and how it is told.

    Attributes:
        status: The status Envoy gives it.
        code: gRPC's name for it.
        message: One sentence; Envoy fills in its command operators. For REST callers.
        plain: The same without operators, for gRPC callers; `message` where it has none.
        reason: For programs; the code's name where empty.
        when: What else must hold.
        or_higher: Statuses above count as well.
        flags: Response flags that tell it, instead of the status.
        answered: The status told, where it is another.
        grpc_code: gRPC's name for gRPC callers, where it is another.
        retry_after_s: Seconds after which a retry may succeed.
        metadata: More for programs.
        names_field: The request check has named a field.
        pressure: The call was one too many: pressure.lua counts it with what services refuse.
        repeated: The edge has sent the call twice: gRPC clients shall not repeat it at once.
    """

    status: int
    code: str
    message: str
    plain: str = ""
    reason: str = ""
    when: tuple[Filter, ...] = ()
    or_higher: bool = False
    flags: tuple[str, ...] = ()
    answered: int = 0
    grpc_code: str = ""
    retry_after_s: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    names_field: bool = False
    pressure: bool = False
    repeated: bool = False


def refusals(settings: EdgeSettings) -> tuple[Refusal, ...]:
    """What Envoy refuses, the first that fits counting; 429 apart, which depends on who calls."""
    described = "%RESPONSE_CODE_DETAILS%"
    said = "%LOCAL_REPLY_BODY%"
    scope = "%METADATA(ROUTE:ragweave:scope)%"
    token = "send authorization: Bearer <token>"  # noqa: S105  # a text
    late = "the call did not end within its time"
    away = "the service behind this path is unavailable"
    upgrade = _header("upgrade", present_match=True)
    everything = _header(":path", string_match={"exact": "*"})
    no_token = f"no valid token: {said}; {token}", f"no valid token; {token}"
    too_large = (
        f"the body is too large: at most {settings.max_json_bytes} bytes as JSON, "
        f"{settings.max_upload_bytes} as an upload"
    )
    overloaded: dict[str, Any] = {
        "message": "more is asked of the service behind this path than it can answer in time; try again later",
        "reason": Overloaded.reason,
        "answered": 429,
        "retry_after_s": 1,
    }
    return (
        # First what there is most of when there is much: Envoy tries one after another.
        Refusal(503, "RESOURCE_EXHAUSTED", when=(_OVERLOADED,), **overloaded),
        Refusal(503, "RESOURCE_EXHAUSTED", flags=("UO",), pressure=True, **overloaded),
        Refusal(400, "INVALID_ARGUMENT", said, "the request is invalid", when=(_FIELD_NAMED,), names_field=True),
        Refusal(408, "DEADLINE_EXCEEDED", late, flags=("DT", "UMSDR"), answered=504),
        Refusal(400, "INVALID_ARGUMENT", said, "the request is invalid", when=(_TRANSCODED,)),
        Refusal(400, "INVALID_ARGUMENT", f"the request cannot be read: {described}", "the request cannot be read"),
        Refusal(401, "UNAUTHENTICATED", *no_token),
        Refusal(403, "INVALID_ARGUMENT", "this path takes no upgrade", when=(upgrade, _UNVERIFIED), answered=400),
        # jwt_authn answers 403 to a token for another audience.
        Refusal(403, "UNAUTHENTICATED", *no_token, when=(_UNVERIFIED,), answered=401),
        Refusal(
            403,
            "PERMISSION_DENIED",
            f"the token lacks the scope {scope}",
            "the token lacks the method's scope",
            metadata={"scope": scope},
        ),
        Refusal(404, "NOT_FOUND", "no such path: *", when=(everything,)),
        Refusal(404, "NOT_FOUND", said, "no such method", grpc_code="UNIMPLEMENTED"),
        Refusal(405, "UNIMPLEMENTED", said, "no such method"),
        Refusal(408, "DEADLINE_EXCEEDED", "the request did not arrive in time"),
        Refusal(413, "INVALID_ARGUMENT", too_large, reason="REQUEST_TOO_LARGE"),
        Refusal(415, "INVALID_ARGUMENT", said, "the content type is not served", reason="UNSUPPORTED_MEDIA_TYPE"),
        Refusal(
            426, "UNIMPLEMENTED", "this version of HTTP is not served: use 1.1 or 2", reason="UNSUPPORTED_HTTP_VERSION"
        ),
        Refusal(
            431,
            "INVALID_ARGUMENT",
            f"the request has more than {settings.max_headers} headers, or more than {settings.max_headers_kib} KiB",
            reason="HEADERS_TOO_LARGE",
        ),
        Refusal(501, "UNIMPLEMENTED", said, "not implemented"),
        Refusal(502, "UNAVAILABLE", "the service behind this path gave no valid answer", retry_after_s=1),
        Refusal(503, "UNAVAILABLE", away, retry_after_s=1, flags=("UF", "UC", "UR", "URX"), repeated=True),
        Refusal(503, "UNAVAILABLE", away, retry_after_s=1),
        Refusal(504, "DEADLINE_EXCEEDED", late),
        Refusal(500, "INTERNAL", "internal error", or_higher=True),
    )


# After all others: what no row names, 429 included where nobody is limited.
LAST = Refusal(
    400, "INVALID_ARGUMENT", "the request cannot be served: %RESPONSE_CODE_DETAILS%", "refused", or_higher=True
)


def mappers(rows: Iterable[Refusal], headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Refusals as `local_reply_config` takes them, each with `headers`, since what fails early meets no filter."""
    return [mapper for row in rows for mapper in (_for_rest(row, headers), *_for_grpc(row, headers))]


def _for_rest(row: Refusal, headers: Mapping[str, str]) -> dict[str, Any]:
    details: list[Any] = [_typed("ErrorInfo", reason=row.reason or row.code, domain=DOMAIN, metadata=row.metadata)]
    if row.names_field:
        problem = {
            "field": "%DYNAMIC_METADATA(ragweave.edge:field)%",
            "description": "%DYNAMIC_METADATA(ragweave.edge:problem)%",
        }
        details.append(_typed("BadRequest", fieldViolations=[problem]))
    if row.retry_after_s:
        details.append(_typed("RetryInfo", retryDelay=f"{row.retry_after_s}s"))
    body = {"code": code_pb2.Code.Value(row.code), "message": row.message, "details": details}
    return {
        **_when(row, _REST_CALLER),
        **({"status_code": row.answered} if row.answered else {}),
        "headers_to_add": _added({**headers, **_more(row)}),
        "body_format_override": {"content_type": "application/json", "json_format": body},
    }


def _for_grpc(row: Refusal, headers: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """In headers alone, with the status 200: Envoy would derive another code from the HTTP status.

    For gRPC-Web that is refused before the filter that speaks it, in a frame of trailers as well: without a body Envoy
    sends no content type, which these clients want.
    """
    status = Status(code=code_pb2.Code.Value(row.grpc_code or row.code), message=row.plain or row.message)
    details: list[Message] = [ErrorInfo(reason=row.reason or row.grpc_code or row.code, domain=DOMAIN)]
    if row.retry_after_s:
        details.append(RetryInfo(retry_delay=Duration(seconds=row.retry_after_s)))
    for each in details:
        status.details.add().Pack(each)
    told = {
        "grpc-status": str(status.code),
        "grpc-message": status.message,
        "grpc-status-details-bin": b64encode(status.SerializeToString(deterministic=True)).decode(),
    }
    if row.repeated:
        told["grpc-retry-pushback-ms"] = "-1"
    common = {"status_code": 200, "headers_to_add": _added({**headers, **_more(row), **told})}
    frame = _trailers_frame(told)
    yield {**_when(row, _GRPC_WEB_TEXT), **common, "body_format_override": _web("-text", b64encode(frame))}
    yield {**_when(row, _GRPC_WEB), **common, "body_format_override": _web("", frame)}
    yield {**_when(row), **common, "body_format_override": {"text_format_source": {"inline_string": ""}}}


def _web(form: str, body: bytes) -> dict[str, Any]:
    return {
        "content_type": f"application/grpc-web{form}+proto",
        "text_format_source": {"inline_bytes": b64encode(body).decode()},
    }


def _trailers_frame(trailers: Mapping[str, str]) -> bytes:
    """Trailers as gRPC-Web sends them in a body: the flag 0x80, their length, and lines as in HTTP/1."""
    lines = "".join(f"{name}:{value}\r\n" for name, value in trailers.items()).encode()
    return struct.pack(">BI", 0x80, len(lines)) + lines


def _when(row: Refusal, *more: Filter) -> dict[str, Any]:
    value = {"default_value": row.status, "runtime_key": "edge.refusal"}
    status = {"comparison": {"op": "GE" if row.or_higher else "EQ", "value": value}}
    told: Filter = {"response_flag_filter": {"flags": list(row.flags)}} if row.flags else {"status_code_filter": status}
    filters = [told, *row.when, *more]
    return {"filter": {"and_filter": {"filters": filters}} if len(filters) > 1 else told}


def _typed(name: str, **content: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{name}", **content}


def _more(row: Refusal) -> Mapping[str, str]:
    return {
        **({"retry-after": str(row.retry_after_s)} if row.retry_after_s else {}),
        **({SHED_HEADER: "1"} if row.pressure else {}),
    }


def _added(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
        for name, value in headers.items()
    ]
