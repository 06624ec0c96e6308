"""What AIP-160 text means, and how what has no meaning is refused."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.mesh.errors import InvalidFilter
from services.mesh.filters import (
    EVERYTHING,
    MAX_COMPARISONS,
    MAX_DEPTH,
    MAX_LENGTH,
    Comparison,
    Field,
    FieldType,
    Filter,
    Has,
    Not,
    Operator,
    Schema,
    all_of,
    any_of,
    evaluate,
    instant,
    negate,
    parse,
)
from tests.filter_trees import SCHEMA

ORDERED = Schema({"title": Field(FieldType.STRING, ordered=True), "source.directory": Field(FieldType.STRING)})


def equals(path: str, value: Any) -> Filter:
    return Comparison(tuple(path.split(".")), Operator.EQ, value)


A, B, C = equals("title", "a"), equals("count", 1.0), equals("disabled", True)


@pytest.mark.parametrize("blank", ["", "  ", "\n\t"])
def test_blank_text_selects_everything(blank: str) -> None:
    assert parse(blank, SCHEMA) == EVERYTHING
    assert evaluate(EVERYTHING, {})


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("title = a", A),
        ('title="a"', A),
        ("title='a'", A),
        ("title:a", A),
        ("(title = a)", A),
        ("title = a AND count = 1", all_of(A, B)),
        ("title = a count = 1", all_of(A, B)),
        ("title=a count=1 AND disabled=true", all_of(A, B, C)),
        ("title = a OR count = 1", any_of(A, B)),
        ("title = a AND count = 1 OR disabled = true", all_of(A, any_of(B, C))),
        ("title = a OR count = 1 AND disabled = true", all_of(any_of(A, B), C)),
        ("(title = a AND count = 1) OR disabled = true", any_of(all_of(A, B), C)),
        ("NOT title = a", Not(A)),
        ("-title = a", Not(A)),
        ("- title = a", Not(A)),
        ("NOT (title = a count = 1)", Not(all_of(A, B))),
        ("title != a", Not(A)),
        ("NOT title != a", A),
        ("NOT title = a OR count = 1", any_of(Not(A), B)),
    ],
)
def test_or_binds_tighter_than_and_and_parts_side_by_side_are_anded(text: str, tree: Filter) -> None:
    assert parse(text, SCHEMA) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("count = 42", equals("count", 42.0)),
        ("count >= -2.5e3", Comparison(("count",), Operator.GE, -2500.0)),
        ('count < "3"', Comparison(("count",), Operator.LT, 3.0)),
        ("disabled = false", equals("disabled", False)),
        ("state = ACTIVE", equals("state", "ACTIVE")),
        ("create_time = 2024-05-01T12:30:00Z", equals("create_time", datetime(2024, 5, 1, 12, 30, tzinfo=UTC))),
        ('createTime = "2024-05-01T12:30:00+02:00"', equals("create_time", datetime(2024, 5, 1, 10, 30, tzinfo=UTC))),
        ("create_time > 2024-05-01", Comparison(("create_time",), Operator.GT, datetime(2024, 5, 1, tzinfo=UTC))),
        ("title = 42", equals("title", "42")),
        ("title = true", equals("title", "true")),
        ('tags:"a"', equals("tags", "a")),
        ("labels.env = prod", equals("labels.env", "prod")),
        ("labels.size = 1", equals("labels.size", "1")),
        ('labels."app.kubernetes.io/name" = x', Comparison(("labels", "app.kubernetes.io/name"), Operator.EQ, "x")),
        ("metadata.author.name = x", equals("metadata.author.name", "x")),
        ("metadata.year = 2024", equals("metadata.year", 2024.0)),
        ('metadata.year = "2024"', equals("metadata.year", "2024")),
        ("metadata.done = true", equals("metadata.done", True)),
        ('metadata.done = "true"', equals("metadata.done", "true")),
        ("metadata.2024 = x", equals("metadata.2024", "x")),
        ('metadata."a*" = x', equals("metadata.a*", "x")),
        ("metadata.due < 2024-05-01", Comparison(("metadata", "due"), Operator.LT, datetime(2024, 5, 1, tzinfo=UTC))),
        ('metadata.due = "2024-05-01"', equals("metadata.due", "2024-05-01")),
    ],
)
def test_a_literal_is_read_as_its_fields_type(text: str, tree: Filter) -> None:
    assert parse(text, SCHEMA) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("title:*", Has(("title",), "")),
        ("title = *", Has(("title",), "")),
        ("count:*", Has(("count",), 0.0)),
        ("create_time:*", Has(("create_time",))),
        ("tags:*", Has(("tags",))),
        ("labels:env", Has(("labels", "env"))),
        ('labels:"a.b"', Has(("labels", "a.b"))),
        ("metadata:author", Has(("metadata", "author"))),
        ("metadata.author.name:*", Has(("metadata", "author", "name"))),
        ("title = null", Not(Has(("title",), ""))),
        ("metadata.k != null", Has(("metadata", "k"))),
        ('metadata.k = "null"', equals("metadata.k", "null")),
    ],
)
def test_presence_is_asked_by_a_colon_and_absence_by_null(text: str, tree: Filter) -> None:
    assert parse(text, SCHEMA) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ('title = "Intro*"', Comparison(("title",), Operator.PREFIX, "Intro")),
        ("title = Intro*", Comparison(("title",), Operator.PREFIX, "Intro")),
        ('title = "*tro*"', Comparison(("title",), Operator.SUBSTRING, "tro")),
        ('title != "Intro*"', Not(Comparison(("title",), Operator.PREFIX, "Intro"))),
        (r'title = "2 \* 3"', equals("title", "2 * 3")),
        (r'title = "Intro\*"', equals("title", "Intro*")),
        ("metadata.k = 1*", Comparison(("metadata", "k"), Operator.PREFIX, "1")),
        (r"""title = "a\"b\\c\n" """, equals("title", 'a"b\\c\n')),
        ("""title = 'say "hi"' """, equals("title", 'say "hi"')),
    ],
)
def test_stars_are_wildcards_unless_escaped(text: str, tree: Filter) -> None:
    assert parse(text, SCHEMA) == tree


def test_a_right_hand_side_may_be_an_expression_of_values() -> None:
    states = any_of(equals("state", "ACTIVE"), equals("state", "FAILED"))
    assert parse("state = (ACTIVE OR FAILED)", SCHEMA) == states
    assert parse("state != (ACTIVE OR FAILED)", SCHEMA) == Not(states)
    assert parse("tags:(a AND NOT b)", SCHEMA) == all_of(equals("tags", "a"), Not(equals("tags", "b")))
    assert parse("count = (1 OR -2)", SCHEMA) == any_of(equals("count", 1.0), equals("count", -2.0))


def test_text_is_ordered_only_where_the_schema_says_so() -> None:
    assert parse('title > "M"', ORDERED) == Comparison(("title",), Operator.GT, "M")
    assert parse("source.directory = x", ORDERED) == equals("source.directory", "x")
    with pytest.raises(InvalidFilter, match=r"column 9: > does not apply to title.*use = or !="):
        parse('title > "M"', SCHEMA)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("tilte = x", 1, "no field 'tilte' (did you mean title?); supported fields: count, create_time, disabled"),
        ("count=1 AND nonsense=1", 13, "no field 'nonsense'"),
        ("count = many", 9, "count takes a number such as 42 or 2.5, found 'many'"),
        ("count = 1e999", 9, "beyond the range of a double"),
        ("disabled = yes", 12, "disabled takes true or false, found 'yes'"),
        ("disabled > true", 12, "> does not apply to disabled"),
        ("state = ACTVE", 9, "state takes one of ACTIVE, FAILED, found 'ACTVE' (did you mean ACTIVE?)"),
        ('state = "A*"', 9, "the beginning of a text cannot be asked of state, a field of type ENUM"),
        ('count = "*1*"', 9, "a part of a text cannot be asked of count, a field of type NUMBER"),
        ("create_time > 2024*", 15, "> takes one value to compare with"),
        ('metadata.k > "2024-01-01*"', 14, "> takes one value to compare with"),
        ("count < null", 9, "< takes one value to compare with"),
        ("create_time > soon", 15, "takes a timestamp such as \"2024-05-01T12:00:00Z\", found 'soon'"),
        ("create_time > 2024-02-30", 15, "takes a timestamp"),
        ("title.name = x", 1, "title is of type STRING and has no field 'name'"),
        ("labels.a.b = x", 1, 'quote a key that holds dots: labels."a.b"'),
        ("labels = x", 10, "labels holds keys: write labels.key = value"),
        ("metadata > 3", 12, "metadata holds keys"),
        ("metadata.k > x", 14, "> does not apply to text that is no timestamp (metadata.k), found 'x'; use = or !="),
        ("author = x", 1, "no field 'author' (did you mean metadata.author?)"),
        ("author.name = x", 1, "no field 'author.name' (did you mean metadata.author.name?)"),
        ('"two words" = x', 1, 'did you mean metadata."two words"?'),
        ("metdata.k = x", 1, "no field 'metdata.k' (did you mean metadata.k?)"),
        ("label.env = x", 1, "no field 'label.env' (did you mean labels.env?)"),
        (f"{'x' * 600} = 1", 1, "a path has at most 512 characters"),
        ("title == a", 8, "expected a value, found '='; write a single ="),
        ("title = a && count = 1", 11, "expected a field, found '&&'; write AND"),
        ("title = a || count = 1", 11, "expected a field, found '||'; write OR"),
        ("!title = a", 1, "expected a field, found '!title'; write NOT"),
        ('tags in ("a")', 1, 'such as tags = ("a" OR "b")'),
        ('title LIKE "a%"', 1, 'such as title = "text*"'),
        ("metadata." + ".".join("abcdefgh") + " = 1", 1, "a path has at most 8 parts"),
        ("title", 1, "'title' stands alone; write field operator value"),
        ("Victor Hugo", 1, "'Victor' stands alone"),
        ("title = a and count = 1", 11, "write AND in capitals"),
        ("title = ", 9, "expected a value, found the end"),
        ("title = AND", 9, "expected a value, found 'AND'"),
        ("title = = a", 9, "expected a value, found '='"),
        ("= a", 1, "expected a field, found '='"),
        ("title = a AND", 14, "expected a field, found the end"),
        ("title = a OR OR count = 1", 14, "expected a field, found 'OR'"),
        ("NOT", 4, "expected a field, found the end"),
        ("NOT NOT title = a", 5, "expected a field, found 'NOT'"),
        ("()", 2, "expected a field, found ')'"),
        ("(title = a", 11, "expected AND, OR or ), found the end"),
        ("title = a)", 10, "expected AND, OR or the end, found ')'"),
        ('title = "a', 9, 'the string that begins here has no closing "'),
        (r'title = "\q"', 10, "unknown escape"),
        ('title = "a*b"', 9, "a * may end a value"),
        ('title = "a\0"', 9, "no text to a database"),
        ("title = a\0", 9, "no text to a database"),
        ('metadata."a\\"b" = 1', 1, "cannot be a key"),
        ('metadata."" = 1', 1, "cannot be a key"),
        ("title..x = 1", 7, "expected a field"),
        ("title, count = 1", 1, "'title' stands alone"),
    ],
)
def test_a_refusal_names_the_column_what_was_found_and_what_would_do(text: str, column: int, message: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        parse(text, SCHEMA)
    assert refusal.value.message.startswith(f"filter: column {column}: ")
    assert message in refusal.value.message
    assert refusal.value.metadata == {"column": str(column)}
    assert [violation.field for violation in refusal.value.violations] == ["filter"]


def nested(levels: int) -> str:
    """Text whose tree nests twice as deep as its parentheses do: a NOT and an OR each."""
    text = "count = 1"
    for _ in range(levels):
        text = f"NOT ({text} OR title = a)"
    return text


def test_length_depth_and_size_are_bounded() -> None:
    parse(nested(MAX_DEPTH // 2), SCHEMA)
    with pytest.raises(InvalidFilter, match="column 1: AND, OR and NOT nest deeper than 32 levels"):
        parse(nested(MAX_DEPTH // 2 + 1), SCHEMA)
    parse("(" * MAX_DEPTH + "count = 1" + ")" * MAX_DEPTH, SCHEMA)
    with pytest.raises(InvalidFilter, match="nest deeper than 32 levels"):
        parse("(" * (MAX_DEPTH + 1) + "count = 1" + ")" * (MAX_DEPTH + 1), SCHEMA)
    parse("count=1 " * MAX_COMPARISONS, SCHEMA)
    with pytest.raises(InvalidFilter, match="more than 256 comparisons"):
        parse("count=1 " * (MAX_COMPARISONS + 1), SCHEMA)
    with pytest.raises(InvalidFilter, match=f"longer than {MAX_LENGTH} characters"):
        parse("(" * (MAX_LENGTH + 1), SCHEMA)


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("metadata.n = 2", True),
        ("metadata.n = 2.0", True),
        ('metadata.n = "2"', False),
        ("metadata.gone = 1", False),
        ("metadata.gone != 1", True),
        ("metadata.gone < 1", False),
        ("NOT metadata.gone < 1", True),
        ("metadata.list:b", True),
        ("metadata.list != b", False),
        ("metadata.list > 2", True),
        ("metadata.objects.x = 1", False),
        ("metadata.objects:*", True),
        ("metadata.nothing:*", False),
        ("metadata.nothing = null", True),
        ("metadata.empty:*", False),
        ("metadata.blank:*", True),
        ("title:*", False),
        ("metadata.flag = true", True),
        ("metadata.flag = 1", False),
        ("metadata.case = ABC", False),
        ("metadata.due >= 2024-01-01T05:00:00+05:00", True),
        ("metadata.due > 2024-01-01", False),
        ("create_time = 2024-01-01", True),
    ],
)
def test_the_reference_meaning(text: str, selected: bool) -> None:
    metadata = {
        "n": 2,
        "list": ["a", "b", 3, None, ["deep"]],
        "objects": [{"x": 1}],
        "nothing": None,
        "empty": [],
        "blank": "",
        "flag": True,
        "case": "abc",
        "due": "2024-01-01T00:00:00Z",
    }
    resource = {"title": "", "metadata": metadata, "create_time": datetime(2024, 1, 1, tzinfo=UTC)}
    assert evaluate(parse(text, SCHEMA), resource) is selected


def test_trees_that_could_match_nothing_are_not_made() -> None:
    with pytest.raises(ValueError, match="at least one"):
        any_of()
    with pytest.raises(ValueError, match="matches nothing"):
        negate(EVERYTHING)
    assert any_of(A, EVERYTHING) == EVERYTHING
    assert all_of(A, EVERYTHING) == A


@pytest.mark.parametrize(
    "text", ["2024-1-1", "2024-02-30", "2024", "10:00", "2024-01-01T25:00:00Z", "9999-12-31T23:59:59-14:00"]
)
def test_text_that_names_no_instant_is_none(text: str) -> None:
    assert instant(text) is None
