"""The contract's TypedFilter to the same tree that AIP-160 text gives, under the same schema and bounds."""

from collections.abc import Iterable
from typing import Final

from google.protobuf import struct_pb2

from ragweave.v1 import filter_pb2 as pb
from services.mesh.errors import InvalidFilter, Violation
from services.mesh.filters.parser import MAX_COMPARISONS, MAX_DEPTH, path_of
from services.mesh.filters.schema import Literal, Schema, Wildcard
from services.mesh.filters.tree import EVERYTHING, Filter, all_of, any_of, negate

_OPERATORS: Final = {
    pb.Comparison.EQUAL: "=",
    pb.Comparison.NOT_EQUAL: "!=",
    pb.Comparison.LESS: "<",
    pb.Comparison.LESS_OR_EQUAL: "<=",
    pb.Comparison.GREATER: ">",
    pb.Comparison.GREATER_OR_EQUAL: ">=",
    pb.Comparison.HAS: ":",
}


def from_typed(message: pb.TypedFilter, schema: Schema) -> Filter:
    """The tree that `message` means for a resource of `schema`; an empty message is EVERYTHING.

    Strings are literal, stars included; `"*"` with HAS asks for presence, as `:*` does in text.

    Raises:
        InvalidFilter: with the path of the message's field at fault, and what would do.
    """
    return _Reader(schema).tree(message, "typed_filter", 0)


class _Reader:
    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._comparisons = 0

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
        operator = _OPERATORS.get(message.operator)
        if operator is None:
            raise _refusal(f"{at}.operator", "names no operator")
        try:
            target = self._schema.target(path_of(message.field))
        except ValueError as error:
            raise _refusal(f"{at}.field", str(error)) from None
        try:
            return target.compare(operator, _literal(message))
        except ValueError as error:
            raise _refusal(f"{at}.value", str(error)) from None


def _literal(message: pb.Comparison) -> Literal:
    value: struct_pb2.Value = message.value
    match value.WhichOneof("kind"):
        case "string_value" if message.operator == pb.Comparison.HAS and value.string_value == "*":
            return Literal("", wildcard=Wildcard.ANYTHING)
        case "string_value":
            return Literal.of(value.string_value)
        case "number_value":
            return Literal.of(value.number_value)
        case "bool_value":
            return Literal.of(value.bool_value)
        case "null_value":
            return Literal.of(None)
        case _:
            raise ValueError("takes a string, number, bool or null")


def _refusal(field: str, description: str) -> InvalidFilter:
    return InvalidFilter(f"{field}: {description}", violations=[Violation(field, description)])
