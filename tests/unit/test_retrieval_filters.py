"""How a search's two filters are read together, and told by ParseFilter."""

import protovalidate
import pytest
from google.protobuf import json_format

from ragweave.v1 import filter_pb2 as pb
from services.mesh.errors import InvalidFilter
from services.mesh.filters import MAX_LENGTH, parse
from services.mesh.filters.typed import from_typed
from services.retrieval import convert
from services.retrieval.filterable import SCHEMA


def request(filter: str = "", typed: pb.TypedFilter | None = None) -> pb.ParseFilterRequest:
    return pb.ParseFilterRequest(filter=filter, typed_filter=typed)


def typed(count: int = 1) -> pb.TypedFilter:
    comparison = pb.Comparison(field="metadata.year", operator=pb.Comparison.LESS, value={"number_value": 2020})
    return pb.TypedFilter(comparisons=[comparison] * count)


def parsed(asked: pb.ParseFilterRequest) -> pb.ParseFilterResponse:
    return convert.filter_to(convert.filter_from(asked))


def test_a_filter_is_told_as_a_tree_in_canonical_text_and_by_its_fields() -> None:
    text = 'NOT exists(metadata.author) AND (sourceUri = "b*" OR metadata."two words" = 5 OR sourceUri = "b*")'
    assert json_format.MessageToDict(parsed(request(text))) == {
        "tree": {
            "comparisons": [{"field": "metadata.author", "operator": "EQUAL", "value": None}],
            "allOf": [
                {
                    "anyOf": [
                        {"comparisons": [{"field": "source_uri", "operator": "PREFIX", "value": "b"}]},
                        {"comparisons": [{"field": 'metadata."two words"', "operator": "EQUAL", "value": 5.0}]},
                        {"comparisons": [{"field": "source_uri", "operator": "PREFIX", "value": "b"}]},
                    ]
                }
            ],
        },
        "canonical": '(metadata."two words" = 5 OR source_uri = "b*") AND metadata.author = null',
        "fields": ['metadata."two words"', "metadata.author", "source_uri"],
    }


def test_both_filters_hold_and_no_filter_is_no_condition() -> None:
    answer = parsed(request('title = "a"', typed()))
    assert answer.canonical == 'metadata.year < 2020 AND title = "a"'
    assert from_typed(answer.tree, SCHEMA) == parse('title = "a" AND metadata.year < 2020', SCHEMA)
    assert parsed(request()) == pb.ParseFilterResponse(tree=pb.TypedFilter())
    assert parsed(request("", typed())).canonical == "metadata.year < 2020"


def test_two_filters_have_together_what_one_may_have() -> None:
    half = " ".join(["metadata.n > 1"] * 128)
    parsed(request(half, typed(128)))
    with pytest.raises(InvalidFilter, match="typed_filter: with filter it has more than 256 comparisons") as refusal:
        parsed(request(half, typed(129)))
    assert [violation.field for violation in refusal.value.violations] == ["typed_filter"]
    deep = pb.TypedFilter(none_of=[pb.TypedFilter(any_of=[typed(), typed()])])
    for _ in range(15):
        deep = pb.TypedFilter(none_of=[pb.TypedFilter(any_of=[deep, typed()])])
    parsed(request("", deep))
    with pytest.raises(InvalidFilter, match="nests deeper than 32 levels"):
        parsed(request("title = a", deep))


def test_the_canonical_text_of_the_largest_filter_fits_its_field() -> None:
    key = "é" * 500
    values = " OR ".join(f"'{n:03}" + '"' * 16 + "'" for n in range(256))
    text = f"metadata.{key} != ({values})"
    assert 6500 < len(text) <= MAX_LENGTH
    answer = parsed(request(text))
    assert 100_000 < len(answer.canonical) <= 262144
    protovalidate.validate(answer)


@pytest.mark.parametrize(
    ("asked", "field", "message"),
    [
        (request("author = x"), "filter", "column 1: no field 'author' (did you mean metadata.author?)"),
        (request("acl:x"), "filter", "no field 'acl'"),
        (
            request("page_number > many"),
            "filter",
            "column 15: page_number takes a number such as 42 or 2.5, found 'many'",
        ),
        (
            request("", pb.TypedFilter(all_of=[typed(), pb.TypedFilter(any_of=[pb.TypedFilter()])])),
            "typed_filter.all_of[1].any_of[0]",
            "is empty; leave it out",
        ),
    ],
)
def test_what_has_no_meaning_is_refused_with_its_place(asked: pb.ParseFilterRequest, field: str, message: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        convert.filter_from(asked)
    assert [violation.field for violation in refusal.value.violations] == [field]
    assert message in refusal.value.message
