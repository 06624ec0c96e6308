"""Between the contract's TypedFilter and the tree that AIP-160 text gives too, under the same schema and bounds."""

from collections.abc import Iterable
from datetime import datetime
from itertools import takewhile
from typing import Final, assert_never

from google.protobuf import struct_pb2

from ragweave.v1 import filter_pb2 as pb
from services.mesh.errors import InvalidFilter, Violation
from services.mesh.filters.parser import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, path_of
from services.mesh.filters.schema import FieldType, Literal, Schema, Target, Wildcard
from services.mesh.filters.text import spelled
from services.mesh.filters.timestamps import timestamp
from services.mesh.filters.tree import (
    EVERYTHING,
    AllOf,
    AnyOf,
    Comparison,
    Filter,
    Has,
    Not,
    Operator,
    Path,
    Value,
    all_of,
    any_of,
    depth,
    negate,
)

_SIGNS: Final = {
    pb.Comparison.EQUAL: "=",
    pb.Comparison.NOT_EQUAL: "!=",
    pb.Comparison.LESS: "<",
    pb.Comparison.LESS_OR_EQUAL: "<=",
    pb.Comparison.GREATER: ">",
    pb.Comparison.GREATER_OR_EQUAL: ">=",
    pb.Comparison.HAS: ":",
}
_PARTS: Final = {pb.Comparison.PREFIX: Wildcard.PREFIX, pb.Comparison.CONTAINS: Wildcard.SUBSTRING}
_OPERATORS: Final = {
    Operator.EQ: pb.Comparison.EQUAL,
    Operator.LT: pb.Comparison.LESS,
    Operator.LE: pb.Comparison.LESS_OR_EQUAL,
    Operator.GT: pb.Comparison.GREATER,
    Operator.GE: pb.Comparison.GREATER_OR_EQUAL,
    Operator.PREFIX: pb.Comparison.PREFIX,
    Operator.SUBSTRING: pb.Comparison.CONTAINS,
}
# What takes numbers and booleans by their own kind; any other field takes text alone.
_UNTEXTUAL: Final = (FieldType.NUMBER, FieldType.BOOL, FieldType.STRUCT)


def from_typed(message: pb.TypedFilter, schema: Schema) -> Filter:
    """The tree that `message` means for a resource of `schema`; an empty message is EVERYTHING.

    Strings are literal, stars included; `"*"` with HAS asks for presence, as `:*` does in text.

    Raises:
        InvalidFilter: with the path of the message's field at fault, what was found there, and what would do.
    """
    tree = _Reader(schema).tree(message, "typed_filter", 0)
    if depth(tree) > MAX_DEPTH:
        raise _refusal("typed_filter", f"nests deeper than {MAX_DEPTH} levels")
    return tree


def to_typed(tree: Filter) -> pb.TypedFilter:
    """The message that means `tree`, its parts in their order: `from_typed` gives the same tree again."""
    match tree:
        case AllOf(parts):
            made = [to_typed(part) for part in parts]
            # Comparisons are read before filters: those that stand first stay by themselves.
            first = list(takewhile(lambda each: each.comparisons, made))
            return pb.TypedFilter(comparisons=[each.comparisons[0] for each in first], all_of=made[len(first) :])
        case AnyOf(parts):
            return pb.TypedFilter(any_of=map(to_typed, parts))
        case Not(Has(path)):
            return _compared(path, pb.Comparison.EQUAL, struct_pb2.Value(null_value=struct_pb2.NULL_VALUE))
        case Not(Comparison(path, Operator.EQ, value)):
            return _compared(path, pb.Comparison.NOT_EQUAL, _value(value))
        case Not(part):
            return pb.TypedFilter(none_of=[to_typed(part)])
        case Has(path):
            return _compared(path, pb.Comparison.HAS, _value("*"))
        case Comparison(path, operator, value):
            return _compared(path, _OPERATORS[operator], _value(value))
    assert_never(tree)


def _compared(path: Path, operator: pb.Comparison.Operator.ValueType, value: struct_pb2.Value) -> pb.TypedFilter:
    return pb.TypedFilter(comparisons=[pb.Comparison(field=spelled(path), operator=operator, value=value)])


def _value(value: Value) -> struct_pb2.Value:
    match value:
        case bool():
            return struct_pb2.Value(bool_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
        case datetime():
            return struct_pb2.Value(string_value=timestamp(value))
        case float() | int():
            return struct_pb2.Value(number_value=value)


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._comparisons = 0
        self._length = 0

    def tree(self, message: pb.TypedFilter, at: str, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise _refusal(at, f"nests deeper than {MAX_DEPTH} levels")
        parts = [self._comparison(found, f"{at}.comparisons[{i}]") for i, found in enumerate(message.comparisons)]
        parts += self._all(message.all_of, f"{at}.all_of", depth)
        parts += [any_of(*self._all(message.any_of, f"{at}.any_of", depth))] if message.any_of else []
        parts += [negate(found) for found in self._all(message.none_of, f"{at}.none_of", depth)]
        return all_of(*parts)

    def _all(self, messages: Iterable[pb.TypedFilter], at: str, depth: int) -> list[Filter]:
        return [self._filled(message, f"{at}[{i}]", depth + 1) for i, message in enumerate(messages)]

    def _filled(self, message: pb.TypedFilter, at: str, depth: int) -> Filter:
        found = self.tree(message, at, depth)
        if found == EVERYTHING:
            raise _refusal(at, "is empty; leave it out")
        return found

    def _comparison(self, message: pb.Comparison, at: str) -> Filter:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise _refusal(at, f"more than {MAX_COMPARISONS} comparisons")
        self._length += len(message.value.string_value)
        if self._length > MAX_LENGTH:
            raise _refusal(f"{at}.value", f"the values are longer than {MAX_LENGTH} characters together")
        if message.operator not in _SIGNS and message.operator not in _PARTS:
            known = ", ".join(pb.Comparison.Operator.keys()[1:])
            raise _refusal(f"{at}.operator", f"names no operator; operators: {known}")
        try:
            target = self._schema.target(path_of(message.field))
        except ValueError as error:
            raise _refusal(f"{at}.field", str(error)) from None
        try:
            literal = _literal(message, target)
            if message.operator in _PARTS:
                return target.matches(_PARTS[message.operator], literal)
            return target.compare(_SIGNS[message.operator], literal)
        except ValueError as error:
            raise _refusal(f"{at}.value", str(error)) from None


def _literal(message: pb.Comparison, target: Target) -> Literal:
    value, field = message.value, target.field.type
    holds_keys = field in (FieldType.MAP, FieldType.STRUCT) and not target.inside
    match value.WhichOneof("kind"):
        case "string_value" if message.operator == pb.Comparison.HAS and value.string_value == "*":
            return Literal("", wildcard=Wildcard.ANYTHING)
        case "string_value":
            return Literal.of(value.string_value)
        case "null_value" if not holds_keys:
            return Literal.of(None)
        case "number_value" if field in _UNTEXTUAL and not holds_keys:
            return Literal.of(value.number_value)
        case "bool_value" if field in _UNTEXTUAL and not holds_keys:
            return Literal.of(value.bool_value)
        case "number_value" | "bool_value" | "null_value" as kind:
            raise ValueError(f"{spelled(target.path)} takes a string, found a {kind.removesuffix('_value')}")
        case "struct_value" | "list_value" as kind:
            raise ValueError(f"takes a string, number, bool or null, found a {kind.removesuffix('_value')}")
    raise ValueError("takes a string, number, bool or null, found none")


def _refusal(field: str, description: str) -> InvalidFilter:
    return InvalidFilter(f"{field}: {description}", violations=[Violation(field, description)])
