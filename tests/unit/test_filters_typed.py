"""The typed filter means what the same text means."""

import pytest

from ragweave.v1 import filter_pb2 as pb
from services.mesh.errors import InvalidFilter
from services.mesh.filters import EVERYTHING, MAX_COMPARISONS, MAX_DEPTH, MAX_LENGTH, parse, unparse
from services.mesh.filters.typed import from_typed, to_typed
from tests.filter_trees import SCHEMA

Op = pb.Comparison.Operator


def compared(field: str, operator: Op, value: str | float | bool | None) -> pb.TypedFilter:
    comparison = pb.Comparison(field=field, operator=operator)
    match value:
        case None:
            comparison.value.null_value = 0
        case bool():
            comparison.value.bool_value = value
        case str():
            comparison.value.string_value = value
        case _:
            comparison.value.number_value = value
    return pb.TypedFilter(comparisons=[comparison])


@pytest.mark.parametrize(
    ("field", "operator", "value", "text"),
    [
        ("title", Op.EQUAL, "a", 'title = "a"'),
        ("title", Op.EQUAL, "a*", r'title = "a\*"'),
        ("title", Op.NOT_EQUAL, "a", 'title != "a"'),
        ("count", Op.LESS, 3, "count < 3"),
        ("count", Op.LESS_OR_EQUAL, 3, "count <= 3"),
        ("count", Op.GREATER, 3, "count > 3"),
        ("count", Op.GREATER_OR_EQUAL, 2.5, "count >= 2.5"),
        ("createTime", Op.GREATER, "2024-01-01T00:00:00Z", "create_time > 2024-01-01T00:00:00Z"),
        ("disabled", Op.EQUAL, True, "disabled = true"),
        ("metadata.year", Op.EQUAL, "2024", 'metadata.year = "2024"'),
        ("metadata.year", Op.EQUAL, 2024, "metadata.year = 2024"),
        ('metadata."two words".name', Op.EQUAL, "x", 'metadata."two words".name = "x"'),
        ("metadata.k", Op.EQUAL, None, "metadata.k = null"),
        ("metadata.k", Op.HAS, "*", "metadata.k:*"),
        ("labels", Op.HAS, "env", "labels:env"),
        ("tags", Op.HAS, "a", "tags:a"),
        ("title", Op.PREFIX, "Gui", 'prefix(title, "Gui")'),
        ("title", Op.PREFIX, "Gui*", r'title = "Gui\**"'),
        ("metadata.k", Op.CONTAINS, "5", 'contains(metadata.k, "5")'),
        ("labels.env", Op.PREFIX, "p", "labels.env = p*"),
    ],
)
def test_a_comparison_means_what_its_text_means(
    field: str, operator: Op, value: str | float | bool | None, text: str
) -> None:
    assert from_typed(compared(field, operator, value), SCHEMA) == parse(text, SCHEMA)


def test_everything_set_must_hold() -> None:
    a, b = compared("title", Op.EQUAL, "a"), compared("count", Op.EQUAL, 1)
    message = pb.TypedFilter(
        comparisons=compared("disabled", Op.EQUAL, True).comparisons,
        all_of=[a, b],
        any_of=[a, b],
        none_of=[a, pb.TypedFilter(all_of=[a, b])],
    )
    text = """disabled = true title = a count = 1 (title = a OR count = 1) NOT title = a NOT (title = a count = 1)"""
    assert from_typed(message, SCHEMA) == parse(text, SCHEMA)


def test_an_empty_message_selects_everything_but_an_empty_part_is_refused() -> None:
    assert from_typed(pb.TypedFilter(), SCHEMA) == EVERYTHING
    with pytest.raises(InvalidFilter, match=r"typed_filter\.none_of\[0\]: is empty"):
        from_typed(pb.TypedFilter(none_of=[pb.TypedFilter()]), SCHEMA)


@pytest.mark.parametrize(
    ("message", "field", "description"),
    [
        (compared("tilte", Op.EQUAL, "a"), "comparisons[0].field", "did you mean title?"),
        (compared("title.", Op.EQUAL, "a"), "comparisons[0].field", "expected a field, found the end"),
        (compared("title x", Op.EQUAL, "a"), "comparisons[0].field", "expected a dot or the end"),
        (compared("count", Op.EQUAL, "many"), "comparisons[0].value", "takes a number"),
        (compared("count", Op.EQUAL, float("nan")), "comparisons[0].value", "no number"),
        (compared("title", Op.EQUAL, "a\0"), "comparisons[0].value", "no text to a database"),
        (
            compared("title", Op.OPERATOR_UNSPECIFIED, "a"),
            "comparisons[0].operator",
            "names no operator; operators: EQUAL, NOT_EQUAL, LESS, LESS_OR_EQUAL, GREATER, GREATER_OR_EQUAL, HAS, ",
        ),
        (compared("author", Op.EQUAL, "a"), "comparisons[0].field", "did you mean metadata.author?"),
        (compared("title", Op.EQUAL, 42), "comparisons[0].value", "title takes a string, found a number"),
        (compared("labels.env", Op.EQUAL, True), "comparisons[0].value", "labels.env takes a string, found a bool"),
        (compared("labels", Op.HAS, 1), "comparisons[0].value", "labels takes a string, found a number"),
        (compared("metadata", Op.HAS, None), "comparisons[0].value", "metadata takes a string, found a null"),
        (compared("create_time", Op.LESS, 1.7e9), "comparisons[0].value", "create_time takes a string, found a number"),
        (compared("create_time", Op.LESS, "soon"), "comparisons[0].value", "takes a timestamp such as"),
        (compared("title", Op.PREFIX, 5), "comparisons[0].value", "title takes a string, found a number"),
        (compared("metadata.k", Op.PREFIX, 5), "comparisons[0].value", "takes text, found 5.0"),
        (compared("metadata.k", Op.CONTAINS, None), "comparisons[0].value", "takes text, found null"),
        (compared("title", Op.CONTAINS, ""), "comparisons[0].value", "takes text that is not empty"),
        (compared("count", Op.PREFIX, "1"), "comparisons[0].value", "cannot be asked of count, a field of type NUMBER"),
        (compared("metadata.k", Op.GREATER, None), "comparisons[0].value", "> takes one value to compare with"),
        (
            pb.TypedFilter(
                comparisons=[
                    pb.Comparison(field="title", operator=Op.EQUAL, value={"list_value": {"values": []}}),
                ]
            ),
            "comparisons[0].value",
            "takes a string, number, bool or null, found a list",
        ),
        (
            pb.TypedFilter(comparisons=[pb.Comparison(field="title", operator=Op.EQUAL)]),
            "comparisons[0].value",
            "takes a string, number, bool or null, found none",
        ),
        (
            pb.TypedFilter(all_of=[compared("title", Op.EQUAL, "a"), compared("state", Op.EQUAL, "GONE")]),
            "all_of[1].comparisons[0].value",
            "one of ACTIVE, FAILED",
        ),
    ],
)
def test_a_refusal_names_the_field_of_the_message(message: pb.TypedFilter, field: str, description: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        from_typed(message, SCHEMA)
    assert [violation.field for violation in refusal.value.violations] == [f"typed_filter.{field}"]
    assert description in refusal.value.message


def test_depth_and_size_are_bounded() -> None:
    message = compared("title", Op.EQUAL, "a")
    for _ in range(40):
        message = pb.TypedFilter(all_of=[message])
    with pytest.raises(InvalidFilter, match="nests deeper than 32 levels"):
        from_typed(message, SCHEMA)
    many = pb.TypedFilter(comparisons=list(compared("title", Op.EQUAL, "a").comparisons) * (MAX_COMPARISONS + 1))
    with pytest.raises(InvalidFilter, match="more than 256 comparisons"):
        from_typed(many, SCHEMA)
    half = compared("title", Op.EQUAL, "a" * (MAX_LENGTH // 2)).comparisons
    from_typed(pb.TypedFilter(comparisons=[*half, *half]), SCHEMA)
    with pytest.raises(
        InvalidFilter, match=r"comparisons\[2\]\.value: the values are longer than 8192 characters together"
    ):
        from_typed(pb.TypedFilter(comparisons=[*half, *half, *compared("title", Op.EQUAL, "a").comparisons]), SCHEMA)


def test_the_tree_is_bounded_as_that_of_text_is() -> None:
    a, b = compared("title", Op.EQUAL, "a"), compared("count", Op.EQUAL, 1)
    message = a
    for _ in range(MAX_DEPTH // 2):
        message = pb.TypedFilter(none_of=[pb.TypedFilter(any_of=[message, b])])
    assert parse(unparse(from_typed(message, SCHEMA)), SCHEMA) == from_typed(message, SCHEMA)
    message = a
    for _ in range(MAX_DEPTH // 2 + 1):
        message = pb.TypedFilter(none_of=[message], any_of=[a, b])
    with pytest.raises(InvalidFilter, match="typed_filter: nests deeper than 32 levels"):
        from_typed(message, SCHEMA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", pb.TypedFilter()),
        ("exists(metadata.k)", compared("metadata.k", Op.HAS, "*")),
        ("metadata.k = null", compared("metadata.k", Op.EQUAL, None)),
        ("title != a", compared("title", Op.NOT_EQUAL, "a")),
        ("NOT prefix(title, a)", pb.TypedFilter(none_of=[compared("title", Op.PREFIX, "a")])),
        ("createTime > 2024-01-01", compared("create_time", Op.GREATER, "2024-01-01T00:00:00Z")),
        (
            "title = a OR count = 1",
            pb.TypedFilter(any_of=[compared("title", Op.EQUAL, "a"), compared("count", Op.EQUAL, 1)]),
        ),
        (
            "title = a AND NOT (count = 1 OR count = 2) AND disabled = true",
            pb.TypedFilter(
                comparisons=compared("title", Op.EQUAL, "a").comparisons,
                all_of=[
                    pb.TypedFilter(
                        none_of=[
                            pb.TypedFilter(any_of=[compared("count", Op.EQUAL, 1), compared("count", Op.EQUAL, 2)])
                        ]
                    ),
                    compared("disabled", Op.EQUAL, True),
                ],
            ),
        ),
    ],
)
def test_a_tree_is_told_as_a_message_in_its_order(text: str, message: pb.TypedFilter) -> None:
    assert to_typed(parse(text, SCHEMA)) == message
    assert from_typed(message, SCHEMA) == parse(text, SCHEMA)
