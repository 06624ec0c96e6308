"""Filters: AIP-160 text or a typed filter to one tree, which evaluates in Python and compiles to SQL and Qdrant.

Conversions import `from_typed` and `to_typed` from `services.mesh.filters.typed`; the rest is free of protobuf.
"""

from services.mesh.filters.canonical import canonical
from services.mesh.filters.evaluate import evaluate
from services.mesh.filters.parser import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, parse
from services.mesh.filters.schema import Field, FieldType, Literal, Schema, Target, Wildcard
from services.mesh.filters.text import spelled, unparse
from services.mesh.filters.timestamps import instant, timestamp
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
    leaves,
    negate,
)

__all__ = [
    "EVERYTHING",
    "MAX_COMPARISONS",
    "MAX_DEPTH",
    "MAX_LENGTH",
    "AllOf",
    "AnyOf",
    "Comparison",
    "Field",
    "FieldType",
    "Filter",
    "Has",
    "Literal",
    "Not",
    "Operator",
    "Path",
    "Schema",
    "Target",
    "Value",
    "Wildcard",
    "all_of",
    "any_of",
    "canonical",
    "depth",
    "evaluate",
    "instant",
    "leaves",
    "negate",
    "parse",
    "spelled",
    "timestamp",
    "unparse",
]
