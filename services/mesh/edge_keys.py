"""What the edge's request check must know of the contract, written as a Lua table."""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from ragweave.contract import HttpBinding, Method

# JSON forms of the well-known types (https://protobuf.dev/programming-guides/json/); any, free and freelist hold what
# they like.
_WELL_KNOWN = {
    "google.protobuf.Any": "free",
    "google.protobuf.Struct": "free",
    "google.protobuf.Value": "any",
    "google.protobuf.ListValue": "freelist",
    "google.protobuf.Timestamp": "timestamp",
    "google.protobuf.Duration": "duration",
    "google.protobuf.FieldMask": "fieldmask",
    "google.protobuf.DoubleValue": "double",
    "google.protobuf.FloatValue": "float",
    "google.protobuf.Int64Value": "int",
    "google.protobuf.UInt64Value": "uint",
    "google.protobuf.Int32Value": "int",
    "google.protobuf.UInt32Value": "uint",
    "google.protobuf.BoolValue": "bool",
    "google.protobuf.StringValue": "string",
    "google.protobuf.BytesValue": "bytes",
}
_SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT64: "int",
    FieldDescriptor.TYPE_SINT64: "int",
    FieldDescriptor.TYPE_SFIXED64: "int",
    FieldDescriptor.TYPE_INT32: "int",
    FieldDescriptor.TYPE_SINT32: "int",
    FieldDescriptor.TYPE_SFIXED32: "int",
    FieldDescriptor.TYPE_UINT64: "uint",
    FieldDescriptor.TYPE_FIXED64: "uint",
    FieldDescriptor.TYPE_UINT32: "uint",
    FieldDescriptor.TYPE_FIXED32: "uint",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_ENUM: "enum",
}
_WIDTH = {
    FieldDescriptor.CPPTYPE_INT32: "int32",
    FieldDescriptor.CPPTYPE_UINT32: "uint32",
}
HTTP_BODY = "google.api.HttpBody"
_VARIABLE = re.compile(r"\{([a-z0-9_.]+)(?:=([^}]*))?\}")


class UnsupportedTemplate(Exception):
    """A path template with a pattern the request check does not know, such as **."""


def segments_of(template: str) -> tuple[list[str], str]:
    """A path template as its segments, "*" for each variable one, and its custom verb, "" without one.

    "/v1/{name=jobs/*}:watch" is (["v1", "jobs", "*"], "watch").

    Raises:
        UnsupportedTemplate: The template holds a pattern other than literals and "*".
    """
    plain = _VARIABLE.sub(lambda variable: variable[2] or "*", template)
    path, colon, custom = plain.rpartition(":")
    if not colon:
        path, custom = plain, ""
    segments = path.removeprefix("/").split("/")
    if any("**" in each or "{" in each or not each for each in segments):
        raise UnsupportedTemplate(template)
    return segments, custom


def pattern_of(template: str) -> str:
    """A path template as an RE2 pattern that matches whole paths without their query."""
    segments, custom = segments_of(template)
    path = "".join("/" + ("[^/]+" if each == "*" else re.escape(each)) for each in segments)
    return path + (re.escape(f":{custom}") if custom else "")


def keys_of(
    methods: Collection[Method],
    open_services: Iterable[str],
    pages: Iterable[str] = (),
    *,
    max_json_bytes: int,
    max_upload_bytes: int,
) -> str:
    """Lua source that sets CONTRACT, in the form envoy/request.lua describes, for `methods` and their REST forms.

    `open_services` are served beside them, and `pages`: paths with all below them.
    """
    messages: dict[str, dict[str, dict[str, Any]]] = {}
    enums: dict[str, dict[str, bool]] = {}
    bindings = []
    for method in methods:
        for binding in method.http:
            bindings.append(_binding(method, binding, messages, enums))
    return (
        _shared_fields(messages)
        + "CONTRACT = {\n"
        + f"limits = {_lua({'json': max_json_bytes, 'upload': max_upload_bytes})},\n"
        + f"methods = {_lua({each.path: True for each in methods})},\n"
        + f"open = {_lua(dict.fromkeys(open_services, True))},\n"
        + f"pages = {_lua(dict.fromkeys(pages, True))},\n"
        + f"bindings = {_lua(bindings)},\n"
        + f"enums = {_lua(enums)},\n"
        + "messages = MESSAGES,\n}\n"
    )


def _binding(method: Method, binding: HttpBinding, messages: dict[str, Any], enums: dict[str, Any]) -> dict[str, Any]:
    request: Descriptor = method.descriptor.input_type
    segments, custom = segments_of(binding.template)
    body = request if binding.body == "*" else None
    taken = {_top(request, variable[1]): "path" for variable in _VARIABLE.finditer(binding.template)}
    if binding.body and binding.body != "*":
        field = request.fields_by_name[binding.body]
        body = field.message_type
        # A body that is one field leaves only the others to the query, and the name inside it to the path.
        taken[field.json_name] = "body"
    raw = body is not None and body.full_name == HTTP_BODY
    if body is not None and not raw:
        _message(body, messages, enums)
    _message(request, messages, enums)
    everything = binding.body == "*"
    return {
        "verb": binding.verb,
        "segments": segments,
        "custom": custom,
        "body": None if raw or body is None else body.full_name,
        "raw": raw,
        "query": None if everything else request.full_name,
        "taken": taken,
    }


def _top(request: Descriptor, path: str) -> str:
    return str(request.fields_by_name[path.partition(".")[0]].json_name)


def _message(message: Descriptor, messages: dict[str, Any], enums: dict[str, Any]) -> None:
    if message.full_name in messages:
        return
    fields = messages[message.full_name] = {}
    for field in message.fields:
        fields[field.name] = _field(field, messages, enums)


def _field(field: FieldDescriptor, messages: dict[str, Any], enums: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"name": field.json_name}
    value = field
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        described["map"] = True
        value = field.message_type.fields_by_name["value"]
    elif field.is_repeated:
        described["list"] = True
    described |= _kind(value, messages, enums)
    oneof = field.containing_oneof
    if oneof is not None and not _is_synthetic(field):
        described["oneof"] = oneof.name
    return described


def _is_synthetic(field: FieldDescriptor) -> bool:
    """Whether its oneof exists only because the field is `optional`."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) == 1 and oneof.name == f"_{field.name}"


def _kind(field: FieldDescriptor, messages: dict[str, Any], enums: dict[str, Any]) -> dict[str, Any]:
    if field.message_type is not None:
        well_known = _WELL_KNOWN.get(field.message_type.full_name)
        if well_known is not None:
            return {"kind": well_known}
        _message(field.message_type, messages, enums)
        return {"kind": "message", "of": field.message_type.full_name}
    if field.enum_type is not None:
        return {"kind": "enum", "of": _enum(field.enum_type, enums)}
    return {"kind": _SCALARS[field.type], "of": _WIDTH.get(field.cpp_type)}


def _enum(enum: EnumDescriptor, enums: dict[str, Any]) -> str:
    enums[enum.full_name] = {value.name: True for value in enum.values}
    return str(enum.full_name)


def _shared_fields(messages: Mapping[str, Mapping[str, dict[str, Any]]]) -> str:
    """Both spellings of a field lead to the same table, so that the check notices a field given twice."""
    lines = ["local MESSAGES, f = {}, nil"]
    for name, fields in messages.items():
        lines.append(f"MESSAGES[{_lua(name)}] = {{}}")
        for spelling, field in fields.items():
            lines.append(f"f = {_lua(field)}")
            for each in sorted({spelling, field["name"]}):
                lines.append(f"MESSAGES[{_lua(name)}][{_lua(each)}] = f")
    return "\n".join(lines) + "\n"


def _lua(value: Any) -> str:
    """A Lua literal. None inside a table is left out, as Lua would."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)  # names of the contract are ASCII, where both notations agree
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"[{_lua(key)}] = {_lua(each)}" for key, each in value.items() if each is not None) + "}"
    return "{" + ", ".join(_lua(each) for each in value) + "}"
