"""One REST form of a method as an operation: its path, parameters, body and answers."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from ragweave.contract import HttpBinding, Method
from services.mesh.edge_keys import HTTP_BODY
from services.mesh.health import HEALTH_PATH
from services.mesh.openapi import answers
from services.mesh.openapi.comments import Comments
from services.mesh.openapi.rules import rules_of
from services.mesh.openapi.schemas import Schemas, component_name, required_fields, takes_nothing
from services.mesh.tokens import ROLES

SECURITY = "token"

_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")
_OPTIONAL_PART = re.compile(r"\(([A-Za-z]+/)\)\?")
# As every id of the contract, where a field's own pattern does not say more.
_ID = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$"
# What no query parameter can hold.
_BODY_ONLY = ("google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Value", "google.protobuf.ListValue")
_NAMING = ("name", "names", "parent")

Ids = Mapping[str, str]


def body_of(method: Method, binding: HttpBinding) -> Descriptor | None:
    """The message a JSON or raw body is read into; None where the form takes no body."""
    request: Descriptor = method.descriptor.input_type
    if binding.body in ("", "*"):
        return request if binding.body else None
    return request.fields_by_name[binding.body].message_type


def resource_ids(messages: Iterable[Descriptor]) -> Ids:
    """What to call the id after each literal of a resource name: "collections" -> "collection"."""
    found: dict[str, str] = {}
    for message in messages:
        resource = message.GetOptions().Extensions[resource_pb2.resource]
        for pattern in resource.pattern:
            for literal, variable in zip(*[iter(pattern.split("/"))] * 2, strict=False):
                found[literal] = variable.strip("{}")
    return found


class Operations:
    """Writes operations; what they share goes to `schemas`."""

    def __init__(self, schemas: Schemas, comments: Comments, ids: Ids) -> None:
        self._schemas = schemas
        self._comments = comments
        self._ids = ids

    def path(self, binding: HttpBinding) -> str:
        """The path with one parameter for each id: "/v1/{name=jobs/*}:watch" is "/v1/jobs/{job}:watch"."""
        return _VARIABLE.sub(lambda found: "/".join(self._segments(found)), binding.template)

    def operation(self, method: Method, at: int) -> dict[str, Any]:
        """The method's REST form number `at`."""
        binding = method.http[at]
        body = body_of(method, binding)
        text = self._comments.of(method.descriptor)
        taken = {found[1].partition(".")[0] for found in _VARIABLE.finditer(binding.template)}
        name = method.name if at == 0 else f"{method.name}By{self._told_apart_by(method, at)}"
        operation: dict[str, Any] = {
            "operationId": name,
            "tags": [method.service.rpartition(".")[2]],
            "summary": text.partition(". ")[0].rstrip("."),
            "description": text,
            "parameters": [*self._path_parameters(method, binding), *self._query_parameters(method, binding, taken)],
        }
        if body is not None:
            operation["requestBody"] = self._body(method, binding, body, taken, "" if at == 0 else name)
        operation["responses"] = {
            "200": self._result(method),
            **answers.refusals([*answers.ALWAYS, *self._more_refusals(method, body)]),
        }
        if method.path == HEALTH_PATH:
            operation["responses"]["503"] = answers.unavailable(self._schemas.refer(method.descriptor.output_type))
        return operation | _policy(method)

    def _told_apart_by(self, method: Method, at: int) -> str:
        first, other = (set(self._path_names(method.http[each])) for each in (0, at))
        return "And".join(name[:1].upper() + name[1:] for name in sorted(other - first)) or str(at + 1)

    def _segments(self, found: re.Match[str]) -> list[str]:
        segments: list[str] = []
        for each in (found[2] or "*").split("/"):
            literal = segments[-1] if segments else found[1]
            segments.append(f"{{{self._ids.get(literal, literal.removesuffix('s'))}}}" if each == "*" else each)
        return segments

    def _path_names(self, binding: HttpBinding) -> list[str]:
        return re.findall(r"\{(\w+)\}", self.path(binding))

    def _path_parameters(self, method: Method, binding: HttpBinding) -> Iterator[dict[str, Any]]:
        for found in _VARIABLE.finditer(binding.template):
            field = _resolved(method.descriptor.input_type, found[1])
            segments = self._segments(found)
            patterns = _id_patterns(rules_of(field).string.pattern, segments)
            for at, each in enumerate(segments):
                if each.startswith("{"):
                    yield {
                        "name": each.strip("{}"),
                        "in": "path",
                        "required": True,
                        "description": f"Id in `{'/'.join(segments)}`, the request's `{field.name}`.",
                        "schema": {"type": "string", "pattern": patterns.get(at, _ID)},
                    }

    def _query_parameters(self, method: Method, binding: HttpBinding, taken: set[str]) -> Iterator[dict[str, Any]]:
        if binding.body == "*":
            return
        request: Descriptor = method.descriptor.input_type
        needed = required_fields(request)
        for name, path in _leaves(request, taken | {binding.body}):
            schema = self._schemas.field(path[-1])
            yield {
                "name": name,
                "in": "query",
                "description": schema.pop("description", ""),
                "required": len(path) == 1 and path[0].name in needed,
                "schema": schema,
            }

    def _body(
        self, method: Method, binding: HttpBinding, body: Descriptor, taken: set[str], form: str
    ) -> dict[str, Any]:
        request: Descriptor = method.descriptor.input_type
        if body.full_name == HTTP_BODY:
            text = self._comments.of(request.fields_by_name[binding.body])
            return {"description": text, "required": True, "content": {"*/*": {"schema": {}}}}
        if binding.body == "*":
            needed = not takes_nothing(request, taken)
            schema = self._schemas.body(request, taken, f"{form}Request" if form else component_name(request))
        else:
            needed = not takes_nothing(body)
            schema = self._schemas.refer(body)
        return {"required": needed, "content": {"application/json": {"schema": schema}}}

    def _result(self, method: Method) -> dict[str, Any]:
        result: Descriptor = method.descriptor.output_type
        kinds, schema = ["application/json"], self._schemas.refer(result)
        if method.server_streaming:
            kinds = ["application/x-ndjson", "text/event-stream"]
        if result.full_name == HTTP_BODY:
            kinds, schema = ["*/*"], {}
        return {
            "description": self._comments.of(result) or "Done.",
            "headers": answers.headers(200),
            "content": {kind: {"schema": schema} for kind in kinds},
        }

    def _more_refusals(self, method: Method, body: Descriptor | None) -> Iterator[int]:
        if method.idempotency != "NO_SIDE_EFFECTS":
            yield 409
        if body is not None:
            yield from (408, 413) if body.full_name == HTTP_BODY else (408, 413, 415)
        resources = {*_NAMING, *self._ids, *self._ids.values()}
        asked = [method.descriptor.input_type, *([] if body is None else [body])]
        if any(field.name in resources for message in asked for field in message.fields):
            yield 404


def _policy(method: Method) -> dict[str, Any]:
    """Who may call it, how often and for how long; without a token only where public collections are searched, or where
    it is open to all.
    """
    without: list[dict[str, Any]] = [{}] if method.public_collections or method.open else []
    return {
        "security": [{SECURITY: [method.scope] if method.scope else []}, *without],
        "x-grpc-method": method.path,
        "x-scope": method.scope,
        "x-roles": sorted(role for role, scopes in ROLES.items() if method.open or method.scope in scopes),
        "x-rate-class": method.rate_class,
        "x-timeout-seconds": method.timeout_s if method.timeout_s % 1 else int(method.timeout_s),
    }


def _resolved(message: Descriptor | None, path: str) -> FieldDescriptor:
    head, _, rest = path.partition(".")
    if message is None:
        raise KeyError(path)
    field: FieldDescriptor = message.fields_by_name[head]
    return _resolved(field.message_type, rest) if rest else field


def _leaves(
    message: Descriptor, without: set[str], above: tuple[FieldDescriptor, ...] = ()
) -> Iterator[tuple[str, tuple[FieldDescriptor, ...]]]:
    """The fields a query can give, nested ones as `mmr.diversity`, with the fields that lead to each."""
    for field in message.fields:
        kind: Descriptor | None = field.message_type
        path = (*above, field)
        if field.name in without:
            continue
        if kind is None or (kind.full_name.startswith("google.protobuf.") and kind.full_name not in _BODY_ONLY):
            yield ".".join(each.json_name for each in path), path
        elif not field.is_repeated and kind.full_name not in _BODY_ONLY and field not in above:
            yield from _leaves(kind, set(), path)


def _id_patterns(pattern: str, segments: list[str]) -> dict[int, str]:
    """The parts of a resource name's pattern that bound its ids, by their place among `segments`."""
    parts = _OPTIONAL_PART.sub(r"\1", pattern.removeprefix("^").removesuffix("$")).split("/")
    fits = len(parts) == len(segments) and all(
        each.startswith("{") or each == part for each, part in zip(segments, parts, strict=True)
    )
    return {at: f"^{parts[at]}$" for at, each in enumerate(segments) if each.startswith("{")} if fits else {}
