"""Whatever comes as a filter, text or typed, is a tree or refused as a filter; in time linear in its length."""

import random
import sys
from typing import Any

import pytest
from google.protobuf import struct_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from ragweave.v1 import filter_pb2 as pb
from services.mesh.errors import InvalidFilter
from services.mesh.filters import MAX_LENGTH, Schema, canonical, evaluate, parse, unparse
from services.mesh.filters.typed import from_typed, to_typed
from services.retrieval.filterable import SCHEMA as SEARCHED
from tests.filter_trees import SCHEMA, TREES, documents

FRAGMENTS = [
    *"()-:.,*=<>!\\\"' \n",
    *(
        "AND",
        "OR",
        "NOT",
        "title",
        "count",
        "metadata",
        "labels",
        "tags",
        "null",
        "true",
        "1e9",
        "é",
        '"x"',
        "<=",
        "!=",
    ),
    *("exists(", "prefix(", "contains(", "metadata.k", "2024-01-01", "-0", "\0", "\ud800", "&&", "in"),
]
DOCUMENTS = documents(20, seed=3)
SCHEMAS = pytest.mark.parametrize("schema", [SCHEMA, SEARCHED], ids=["lists", "searches"])


def taken(text: str, schema: Schema) -> None:
    try:
        tree = parse(text, schema)
    except InvalidFilter as refusal:
        assert 1 <= int(refusal.metadata["column"]) <= len(text) + 1
        assert refusal.message.startswith(f"filter: column {refusal.metadata['column']}: ")
        assert len(refusal.message) < 1000
        return
    # repr: True and 1.0 are equal to Python.
    assert repr(parse(unparse(tree), schema)) == repr(tree)
    assert repr(from_typed(to_typed(tree), schema)) == repr(tree)


@SCHEMAS
@given(text=st.one_of(st.text(max_size=60), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map("".join)))
@settings(max_examples=1000, deadline=None)
def test_any_text_is_a_filter_or_refused_as_one(schema: Schema, text: str) -> None:
    taken(text, schema)


@given(tree=TREES, seed=st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_text_that_was_a_filter_before_it_was_damaged_is_a_filter_or_refused_as_one(tree: Any, seed: int) -> None:
    chance, text = random.Random(seed), unparse(tree)
    for _ in range(chance.randint(1, 4)):
        start, end = sorted(chance.choices(range(len(text) + 1), k=2))
        kept = text[start:end] if chance.random() < 0.5 else ""
        text = text[:start] + chance.choice([kept, *FRAGMENTS]) + text[chance.choice([start, start + 1, end]) :]
    taken(text, SCHEMA)


_TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["*", "2024-01-01", "a*", "ACTIVE", "", "5", "true"]))
_FIELDS = st.one_of(
    st.sampled_from([*SCHEMA.fields, "metadata.k", 'metadata."a b".c', "labels.k", "metdata.k", "x", "title.x", ""]),
    st.text(max_size=20),
)
_VALUES = st.one_of(
    st.builds(struct_pb2.Value, string_value=_TEXTS),
    st.builds(struct_pb2.Value, number_value=st.floats()),
    st.builds(struct_pb2.Value, bool_value=st.booleans()),
    st.just(struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)),
    st.just(struct_pb2.Value(list_value=struct_pb2.ListValue())),
    st.just(struct_pb2.Value(struct_value=struct_pb2.Struct())),
    st.just(struct_pb2.Value()),
)
_OPERATORS: st.SearchStrategy[Any] = st.integers(-1, 12)
_COMPARISONS = st.lists(st.builds(pb.Comparison, field=_FIELDS, operator=_OPERATORS, value=_VALUES), max_size=2)
_MESSAGES: st.SearchStrategy[pb.TypedFilter] = st.recursive(
    st.builds(pb.TypedFilter, comparisons=_COMPARISONS),
    lambda parts: st.builds(
        pb.TypedFilter,
        comparisons=_COMPARISONS,
        all_of=st.lists(parts, max_size=2),
        any_of=st.lists(parts, max_size=2),
        none_of=st.lists(parts, max_size=2),
    ),
    max_leaves=6,
)


@given(message=_MESSAGES)
@settings(max_examples=1000, deadline=None)
def test_any_message_is_a_filter_or_refused_by_the_path_of_what_is_wrong(message: pb.TypedFilter) -> None:
    try:
        tree = from_typed(message, SCHEMA)
    except InvalidFilter as refusal:
        (violation,) = refusal.violations
        assert violation.field.startswith("typed_filter")
        assert refusal.message == f"{violation.field}: {violation.description}"
        return
    assert repr(from_typed(to_typed(tree), SCHEMA)) == repr(tree)
    assert repr(parse(unparse(tree), SCHEMA)) == repr(tree)


@given(tree=TREES)
@settings(max_examples=300, deadline=None)
def test_a_tree_is_the_same_after_text_and_after_a_message(tree: Any) -> None:
    assert repr(parse(unparse(tree), SCHEMA)) == repr(tree)
    assert repr(from_typed(to_typed(tree), SCHEMA)) == repr(tree)
    message = to_typed(tree)
    assert pb.TypedFilter.FromString(message.SerializeToString()) == message


@given(tree=TREES, seed=st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_the_canonical_form_selects_the_same_whatever_the_order(tree: Any, seed: int) -> None:
    form = canonical(tree)
    assert unparse(canonical(form)) == unparse(form)
    assert repr(parse(unparse(form), SCHEMA)) == repr(form)
    shuffled = parse(unparse(_shuffled(tree, random.Random(seed))), SCHEMA)
    assert unparse(canonical(shuffled)) == unparse(form)
    assert [evaluate(form, each) for each in DOCUMENTS] == [evaluate(tree, each) for each in DOCUMENTS]


def _shuffled(tree: Any, chance: random.Random) -> Any:
    """The tree with its parts in another order, and one of them twice."""
    if hasattr(tree, "parts"):
        parts = [_shuffled(part, chance) for part in tree.parts]
        parts.append(chance.choice(parts))
        chance.shuffle(parts)
        return type(tree)(tuple(parts))
    return type(tree)(_shuffled(tree.part, chance)) if hasattr(tree, "part") else tree


LONG = {
    "opening parentheses": "(",
    "minuses": "-",
    "NOTs": "NOT ",
    "a word": "x",
    "dots": "x.",
    "quotes": '"',
    "escapes": '"\\\\"',
    "backslashes": "\\",
    "spaces": " ",
    "stars": "*",
    "comparators": "=",
    "comparisons": "count=1 ",
    "values": "count=(1 OR ",
    "calls": "exists(metadata.k) ",
    "open calls": "prefix(",
    "negated groups": "NOT (count=1 OR ",
    "surrogates": "\ud800",
    "wide characters": "日",
    "numbers": "9",
}


@pytest.mark.parametrize("start", ["", "title = ", 'title = "', "metadata.", "count = ", "exists("])
@pytest.mark.parametrize("piece", LONG.values(), ids=LONG.keys())
def test_twice_the_text_is_at_most_twice_the_work(start: str, piece: str) -> None:
    def calls(length: int) -> int:
        """Calls made to read that much of it; counted, since time differs."""
        count = 0

        def counted(frame: Any, event: str, argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        text = (start + piece * length)[:length]
        sys.setprofile(counted)
        try:
            parse(text, SEARCHED)
        except InvalidFilter:
            pass
        finally:
            sys.setprofile(None)
        return count

    half = calls(MAX_LENGTH // 2)
    assert calls(MAX_LENGTH) <= 2 * half + 100
    assert half < 50 * MAX_LENGTH
