"""Messages and fields as JSON Schema 2020-12, in the form proto3 JSON gives them."""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, OneofDescriptor

from services.mesh.openapi.comments import Comments
from services.mesh.openapi.rules import (
    DIGITS,
    UNSIGNED_DIGITS,
    Schema,
    constrain,
    is_required,
    message_remarks,
    needed,
    refused_values,
    rules_of,
)

_DURATION = {"type": "string", "pattern": r"^-?[0-9]{1,11}(\.[0-9]{1,9})?s$", "examples": ["3.5s"]}
_ANY = {
    "type": "object",
    "required": ["@type"],
    "properties": {"@type": {"type": "string", "description": "URL that ends with the message's full name."}},
}
# https://protobuf.dev/programming-guides/json/
_WELL_KNOWN: Mapping[str, Schema] = {
    "google.protobuf.Any": _ANY,
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array"},
    "google.protobuf.Empty": {"type": "object"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": _DURATION,
    "google.protobuf.FieldMask": {"type": "string", "format": "field-mask"},
    "google.protobuf.DoubleValue": {"type": "number", "format": "double"},
    "google.protobuf.FloatValue": {"type": "number", "format": "float"},
    "google.protobuf.Int64Value": {"type": "string", "format": "int64", "pattern": DIGITS},
    "google.protobuf.UInt64Value": {"type": "string", "format": "uint64", "pattern": UNSIGNED_DIGITS},
    "google.protobuf.Int32Value": {"type": "integer", "format": "int32"},
    "google.protobuf.UInt32Value": {"type": "integer", "format": "uint32"},
    "google.protobuf.BoolValue": {"type": "boolean"},
    "google.protobuf.StringValue": {"type": "string"},
    "google.protobuf.BytesValue": {"type": "string", "format": "byte", "contentEncoding": "base64"},
}
_MAX_FLOAT = 3.4028234663852886e38
_SCALARS: Mapping[int, Schema] = {
    FieldDescriptor.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    FieldDescriptor.CPPTYPE_FLOAT: {
        "type": "number",
        "format": "float",
        "minimum": -_MAX_FLOAT,
        "maximum": _MAX_FLOAT,
    },
    FieldDescriptor.CPPTYPE_INT64: {"type": "string", "format": "int64", "pattern": DIGITS},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "string", "format": "uint64", "pattern": UNSIGNED_DIGITS},
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32", "minimum": -(2**31), "maximum": 2**31 - 1},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 2**32 - 1},
    FieldDescriptor.CPPTYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.CPPTYPE_STRING: {"type": "string"},
}
# Packages whose names are left out of component names; no two messages may come to share one.
_PACKAGES = ("ragweave.v1.", "google.rpc.")


class AmbiguousName(Exception):
    """Two messages would be one component; names it."""


class Schemas:
    """Components of the document, each written when it is first referred to.

    Args:
        comments: Become descriptions.
        sent: Full names of the messages callers send. They are closed, since the edge refuses unknown fields; answers
            stay open, since they may gain some.
    """

    def __init__(self, comments: Comments, sent: frozenset[str]) -> None:
        self._comments = comments
        self._sent = sent
        self._written: dict[str, tuple[str, Schema]] = {}

    def components(self) -> dict[str, Schema]:
        """Every component referred to so far, by name."""
        return {name: schema for name, (_, schema) in sorted(self._written.items())}

    def refer(self, message: Descriptor) -> Schema:
        """A reference to a message's component; a well-known type's own schema."""
        if message.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[message.full_name])
        return self._component(component_name(message), message.full_name, lambda: self._message(message))

    def body(self, message: Descriptor, without: Iterable[str], name: str) -> Schema:
        """A reference to a request less the fields that the path gives; `name` is its component's."""
        hidden = frozenset(without)
        if not hidden and name == component_name(message):  # as other messages refer to it
            return self.refer(message)
        return self._component(name, f"{message.full_name} as {name}", lambda: self._message(message, hidden))

    def add(self, name: str, schema: Schema) -> Schema:
        """A reference to a component that no message stands behind."""
        return self._component(name, name, lambda: schema)

    def field(self, field: FieldDescriptor) -> Schema:
        """One field, with its comment and bounds."""
        schema = self._of(field)
        if text := self._comments.of(field):
            schema["description"] = text
        constrain(schema, rules_of(field), field.full_name)
        behaviors = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
        if field_behavior_pb2.OUTPUT_ONLY in behaviors:
            schema["readOnly"] = True
        if field_behavior_pb2.INPUT_ONLY in behaviors:
            schema["writeOnly"] = True
        return schema

    def _of(self, field: FieldDescriptor) -> Schema:
        message: Descriptor | None = field.message_type
        if message is not None and message.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(message.fields_by_name["value"])}
        one = self._one(field)
        return {"type": "array", "items": one} if field.is_repeated else one

    def _one(self, field: FieldDescriptor) -> Schema:
        if field.message_type is not None:
            return self.refer(field.message_type)
        if field.enum_type is not None:
            return self._enum(field.enum_type, refused_values(rules_of(field)))
        if field.type == FieldDescriptor.TYPE_BYTES:
            return dict(_WELL_KNOWN["google.protobuf.BytesValue"])
        schema = dict(_SCALARS[field.cpp_type])
        holder: Descriptor | None = field.containing_type
        if schema.get("format") in ("int64", "uint64") and holder is not None and holder.full_name in self._sent:
            schema["type"] = ["string", "integer"]
        return schema

    def _component(self, name: str, origin: str, write: Callable[[], Schema]) -> Schema:
        if name not in self._written:
            self._written[name] = (origin, {})  # first, since messages nest in themselves
            self._written[name][1].update(write())
        elif self._written[name][0] != origin:
            raise AmbiguousName(f"{name}: {self._written[name][0]} and {origin}")
        return {"$ref": f"#/components/schemas/{name}"}

    def _message(self, message: Descriptor, without: frozenset[str] = frozenset()) -> Schema:
        fields = [each for each in message.fields if each.name not in without]
        sent = message.full_name in self._sent
        schema: Schema = {"type": "object"}
        if text := " ".join([self._comments.of(message), *message_remarks(message)]).strip():
            schema["description"] = text
        required = required_fields(message) if sent else {each.name for each in fields if _always_printed(each)}
        if names := [each.json_name for each in fields if each.name in required]:
            schema["required"] = names
        schema["properties"] = {each.json_name: self.field(each) for each in fields}
        if sent:
            schema["additionalProperties"] = False
        schema |= _exclusive(message.oneofs)
        return schema

    def _enum(self, enum: EnumDescriptor, refused: frozenset[int]) -> Schema:
        values = [each for each in enum.values if each.number not in refused]
        if len(values) < len(enum.values):
            return {"type": "string", "enum": [each.name for each in values]}
        lines = [f"- `{each.name}`: {self._comments.of_value(enum, each.name)}" for each in values]
        text = "\n".join([self._comments.of(enum), "", *lines]).strip()
        return self._component(
            component_name(enum),
            enum.full_name,
            lambda: {"type": "string", "description": text, "enum": [each.name for each in values]},
        )


def component_name(descriptor: Descriptor | EnumDescriptor) -> str:
    """A message's or enum's name in the document: its full name less the package."""
    name = str(descriptor.full_name)
    return next((name.removeprefix(each) for each in _PACKAGES if name.startswith(each)), name)


def required_fields(message: Descriptor) -> frozenset[str]:
    """Names of the fields a caller must give: declared REQUIRED, or refused by a rule when left out."""
    declared = {
        each.name
        for each in message.fields
        if field_behavior_pb2.REQUIRED in each.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    }
    return needed(message) | declared


def takes_nothing(message: Descriptor, without: Iterable[str] = ()) -> bool:
    """Whether the message may be left empty, less the fields given elsewhere."""
    return not required_fields(message) - set(without) and not any(map(is_required, message.oneofs))


def reachable(messages: Iterable[Descriptor]) -> frozenset[str]:
    """Full names of the messages and of all they hold."""
    found: set[str] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            waiting += [each.message_type for each in message.fields if each.message_type is not None]
    return frozenset(found)


def _always_printed(field: FieldDescriptor) -> bool:
    """Whether answers hold it even at its default: what has no presence of its own, but for error details."""
    ours = str(field.full_name).startswith(_PACKAGES[0])
    return bool(ours and (field.is_repeated or not field.has_presence))


def _exclusive(oneofs: Iterable[OneofDescriptor]) -> Schema:
    """That at most one field of each oneof may be set, or exactly one where one must."""
    demands: list[Schema] = []
    for oneof in oneofs:
        names = [each.json_name for each in oneof.fields]
        if is_required(oneof):
            demands.append({"oneOf": [{"required": [name]} for name in names]})
        else:
            demands += [{"not": {"required": list(pair)}} for pair in combinations(names, 2)]
    return demands[0] if len(demands) == 1 else {"allOf": demands} if demands else {}
