"""Random filter trees and documents of one schema, for the tests of filters and of what compiles them."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from services.mesh.filters import Field, FieldType, Filter, Literal, Schema, Wildcard, all_of, any_of, negate

SCHEMA = Schema(
    {
        "title": Field(FieldType.STRING),
        "count": Field(FieldType.NUMBER),
        "disabled": Field(FieldType.BOOL),
        "create_time": Field(FieldType.TIMESTAMP),
        "state": Field(FieldType.ENUM, values=("ACTIVE", "FAILED")),
        "tags": Field(FieldType.STRING_LIST),
        "labels": Field(FieldType.MAP),
        "metadata": Field(FieldType.STRUCT),
    }
)
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
TEXTS = ["", "a", "ab", "abc", "ABC", "a*b", "*", "a%", "a_c", "über", "'; --", '"q"', "\\", "1", "true", "日本"]
NUMBERS = [0.0, 1.0, -1.0, 2.5, 1e21, 0.1, 3.0, 2.0**53]
MOMENTS = [
    "2024-01-01",
    "2024-01-01T00:00:00Z",
    "2024-01-01T00:00:00.000001Z",
    "2024-01-01t05:30:00+05:30",
    "2024-01-01 00:00:00",
    "2024-01-01T12:00:00.123456789-08:00",
    "2024-02-29T23:59:59.5",
    "1999-12-31T23:59:59.999999Z",
]
NO_MOMENTS = ["2024-02-30", "2024-13-01T00:00:00Z", "yesterday"]
KEYS = ["k", "tags", "two words", "é", "a.b", "0", "Key", "type", "AND", "a*"]


def documents(count: int, seed: int) -> list[dict[str, Any]]:
    """Documents with every kind of value in every kind of place, and with gaps."""
    return [_document(random.Random(seed * 10_000 + number)) for number in range(count)]


def _document(chance: random.Random) -> dict[str, Any]:
    document = {
        "title": chance.choice(TEXTS),
        "count": chance.choice([0, 1, 2, 3, -1]),
        "disabled": chance.random() < 0.5,
        "create_time": EPOCH + timedelta(microseconds=chance.choice([-1, 0, 1, 86_400_000_000])),
        "state": chance.choice(["ACTIVE", "FAILED"]),
        "tags": chance.choices(TEXTS, k=chance.randrange(4)),
        "labels": {chance.choice(KEYS): chance.choice(TEXTS) for _ in range(chance.randrange(3))},
        "metadata": _struct(chance, 0),
    }
    gone = chance.choices(["title", "count", "disabled", "create_time", "state", "tags"], k=chance.randrange(3))
    return {name: None if name in gone else value for name, value in document.items()}


def _struct(chance: random.Random, depth: int) -> dict[str, Any]:
    return {chance.choice(KEYS): _json(chance, depth) for _ in range(chance.randrange(9))}


def _json(chance: random.Random, depth: int) -> Any:
    kind = chance.randrange(10)
    if kind < 3 and depth < 2:
        return _struct(chance, depth + 1)
    if kind < 5 and depth < 3:
        return [_json(chance, 2 + (chance.random() < 0.9)) for _ in range(chance.randrange(4))]
    return chance.choice([*TEXTS, *MOMENTS, *NO_MOMENTS, *NUMBERS, 0, 1, 7, True, False, None])


_TEXT_LITERALS = st.builds(
    Literal,
    st.sampled_from(TEXTS),
    st.just(True),
    st.sampled_from([Wildcard.NONE, Wildcard.NONE, Wildcard.PREFIX, Wildcard.SUBSTRING]),
).map(lambda literal: literal if literal.text else Literal("", wildcard=Wildcard.NONE))
_PRESENCE = st.sampled_from([Literal.of(None), Literal("", wildcard=Wildcard.ANYTHING)])
_NUMBER_LITERALS = st.sampled_from(NUMBERS).map(Literal.of)
_MOMENT_LITERALS = st.sampled_from(MOMENTS).map(Literal.of)
_EQUALITY = st.sampled_from(["=", "!=", ":"])
_ORDER = st.sampled_from(["<", "<=", ">", ">=", "=", "!="])
_METADATA = st.one_of(*(st.tuples(st.just("metadata"), *[st.sampled_from(KEYS)] * depth) for depth in (1, 1, 2, 3)))
_LABELS = st.sampled_from(KEYS).map(lambda key: ("labels", key))


def _leaves(*paths: st.SearchStrategy[Any], sign: Any, literal: Any) -> st.SearchStrategy[Filter]:
    return st.builds(
        lambda path, sign, literal: SCHEMA.target(path).compare(sign, literal), st.one_of(paths), sign, literal
    )


def _field(name: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.just((name,))


LEAVES = st.one_of(
    _leaves(_field("title"), _field("tags"), _LABELS, _METADATA, sign=_EQUALITY, literal=_TEXT_LITERALS),
    _leaves(_field("count"), _METADATA, sign=_ORDER, literal=_NUMBER_LITERALS),
    _leaves(_field("create_time"), _METADATA, sign=_ORDER, literal=_MOMENT_LITERALS),
    _leaves(_field("disabled"), _METADATA, sign=_EQUALITY, literal=st.booleans().map(Literal.of)),
    _leaves(_field("state"), sign=_EQUALITY, literal=st.sampled_from(["ACTIVE", "FAILED"]).map(Literal.of)),
    _leaves(
        *map(_field, ["title", "count", "disabled", "create_time", "state", "tags"]),
        _LABELS,
        _METADATA,
        sign=_EQUALITY,
        literal=_PRESENCE,
    ),
)

TREES: st.SearchStrategy[Filter] = st.recursive(
    LEAVES,
    lambda trees: st.one_of(
        trees.map(negate),
        st.lists(trees, min_size=2, max_size=3).map(lambda parts: all_of(*parts)),
        st.lists(trees, min_size=2, max_size=3).map(lambda parts: any_of(*parts)),
    ),
    max_leaves=8,
)
