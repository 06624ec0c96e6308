"""The bounds of buf.validate as keywords of JSON Schema, so that the document promises what the services check."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator

from ragweave.third_party.buf.validate import validate_pb2

Schema = dict[str, Any]

_VALIDATOR = Validator()
_NUMBERS: Mapping[str, str] = {
    "gte": "minimum",
    "gt": "exclusiveMinimum",
    "lte": "maximum",
    "lt": "exclusiveMaximum",
    "const": "const",
}
_STRINGS: Mapping[str, str] = {"min_len": "minLength", "max_len": "maxLength", "pattern": "pattern", "const": "const"}
_FORMATS: Mapping[str, str] = {
    "email": "email",
    "hostname": "hostname",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
    "uri": "uri",
    "uri_ref": "uri-reference",
    "uuid": "uuid",
}
_LISTS: Mapping[str, str] = {"min_items": "minItems", "max_items": "maxItems", "unique": "uniqueItems"}
_MAPS: Mapping[str, str] = {"min_pairs": "minProperties", "max_pairs": "maxProperties"}
DIGITS, UNSIGNED_DIGITS = "^-?[0-9]{1,19}$", "^[0-9]{1,19}$"
# A duration as JSON has it, at most 9,999 years and so within what a Duration holds.
_DURATION = r"[0-9]{1,11}(\.[0-9]{1,9})?s$"


class UnsupportedRule(Exception):
    """A rule this module has no keyword for; names field and rule, so that no bound is left out in silence."""


def rules_of(field: FieldDescriptor) -> validate_pb2.FieldRules:
    """The field's rules; empty ones where it has none."""
    rules: validate_pb2.FieldRules = field.GetOptions().Extensions[validate_pb2.field]
    return rules


def constrain(schema: Schema, rules: validate_pb2.FieldRules, name: str) -> Schema:
    """`schema` with the bounds of `rules` added; what no keyword can say goes to its description.

    Raises:
        UnsupportedRule: A rule has no counterpart here; `name` tells where.
    """
    kind = rules.WhichOneof("type")
    if kind is not None:
        of_kind: Message = getattr(rules, kind)
        _KINDS.get(kind, _number)(schema, of_kind, name)
    for rule in rules.cel:
        _remark(schema, rule.message or rule.expression)
    for expression in rules.cel_expression:
        _remark(schema, expression)
    return schema


def message_remarks(message: Descriptor) -> list[str]:
    """What a message's own CEL rules demand, in words."""
    rules = message.GetOptions().Extensions[validate_pb2.message]
    return [each.message or each.expression for each in rules.cel] + list(rules.cel_expression)


def is_required(oneof: Any) -> bool:
    """Whether one field of the oneof must be set."""
    return bool(oneof.GetOptions().Extensions[validate_pb2.oneof].required)


def needed(message: Descriptor) -> frozenset[str]:
    """Names of the fields that may not be left out: those the validator misses in an empty message."""
    found = _VALIDATOR.collect_violations(GetMessageClass(message)())
    named = {path.elements[0].field_name for each in found if (path := each.proto.field)}
    return frozenset(named & set(message.fields_by_name))


def _number(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        if field.name in _NUMBERS:
            schema[_NUMBERS[field.name]] = value
            if field.name in ("gte", "gt") and value >= 0 and "pattern" in schema:
                schema["pattern"] = UNSIGNED_DIGITS  # 64 bits, which JSON holds as text
        elif field.name in ("in", "not_in"):
            _choice(schema, field.name, list(value))
        elif field.name != "finite":  # JSON has no other numbers
            raise UnsupportedRule(f"{name}: {field.name}")


def _string(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        if field.name in _STRINGS:
            schema[_STRINGS[field.name]] = value
        elif field.name in _FORMATS:
            schema["format"] = _FORMATS[field.name]
        elif field.name == "len":
            schema["minLength"] = schema["maxLength"] = value
        elif field.name == "max_bytes":
            schema["maxLength"] = value
            _remark(schema, f"At most {value} bytes of UTF-8.")
        elif field.name in ("in", "not_in"):
            _choice(schema, field.name, list(value))
        else:
            raise UnsupportedRule(f"{name}: {field.name}")


def _bytes(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        if field.name not in ("min_len", "max_len"):
            raise UnsupportedRule(f"{name}: {field.name}")
        schema[_STRINGS[field.name]] = 4 * math.ceil(value / 3)  # base64, padded
    if getattr(rules, "max_len", 0):
        _remark(schema, f"At most {getattr(rules, 'max_len')} bytes before base64.")  # noqa: B009 - any rules message


def _enum(schema: Schema, rules: Message, name: str) -> None:
    """Leaves the choice to the field's own schema, which holds the enum: see `refused_values`."""
    for field, _ in rules.ListFields():
        if field.name not in ("defined_only", "not_in"):
            raise UnsupportedRule(f"{name}: {field.name}")


def refused_values(rules: validate_pb2.FieldRules) -> frozenset[int]:
    """Numbers of an enum's values that the field does not take."""
    return frozenset(rules.enum.not_in)


def _list(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        if field.name in _LISTS:
            schema[_LISTS[field.name]] = value
        elif field.name == "items":
            constrain(schema["items"], value, f"{name}[]")
        else:
            raise UnsupportedRule(f"{name}: {field.name}")


def _map(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        if field.name in _MAPS:
            schema[_MAPS[field.name]] = value
        elif field.name == "keys":
            schema["propertyNames"] = constrain({"type": "string"}, value, f"{name}.key")
        elif field.name == "values":
            constrain(schema["additionalProperties"], value, f"{name}.value")
        else:
            raise UnsupportedRule(f"{name}: {field.name}")


def _duration(schema: Schema, rules: Message, name: str) -> None:
    for field, value in rules.ListFields():
        seconds = value.ToNanoseconds() / 1e9
        if field.name == "gt" and seconds == 0:
            schema["pattern"] = f"^(?=.*[1-9]){_DURATION}"
        elif field.name == "gte" and seconds == 0:
            schema["pattern"] = f"^{_DURATION}"
        elif field.name in ("gt", "gte", "lt", "lte"):
            words = {"gt": "More than", "gte": "At least", "lt": "Less than", "lte": "At most"}
            _remark(schema, f"{words[field.name]} {seconds:g} s.")
        else:
            raise UnsupportedRule(f"{name}: {field.name}")


def _refuse(schema: Schema, rules: Message, name: str) -> None:
    for field, _ in rules.ListFields():
        raise UnsupportedRule(f"{name}: {field.name}")


_KINDS: Mapping[str, Callable[[Schema, Message, str], None]] = {
    "string": _string,
    "bytes": _bytes,
    "enum": _enum,
    "repeated": _list,
    "map": _map,
    "duration": _duration,
    "bool": _refuse,
    "any": _refuse,
    "field_mask": _refuse,
    "timestamp": _refuse,
}


def _choice(schema: Schema, rule: str, values: list[Any]) -> None:
    if rule == "in":
        schema["enum"] = values
    else:
        schema["not"] = {"enum": values}


def _remark(schema: Schema, words: str) -> None:
    schema["description"] = f"{schema.get('description', '')} {words}".strip()
