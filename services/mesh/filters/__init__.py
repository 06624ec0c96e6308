"""Filters: AIP-160 text or a typed filter to one tree, which evaluates in Python and compiles to SQL and Qdrant.

Servicers import `from_typed` from `services.mesh.filters.typed`; all else is here, and free of protobuf.
"""

from services.mesh.filters.evaluate import evaluate
from services.mesh.filters.parser import MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, parse
from services.mesh.filters.schema import Field, FieldType, Literal, Schema, Target, Wildcard
from services.mesh.filters.text import unparse
from services.mesh.filters.timestamps import instant
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
    "evaluate",
    "instant",
    "negate",
    "parse",
    "unparse",
]
