"""The functions of filter text: each means what a comparison with stars means, and what is no call is refused."""

import pytest

from services.mesh.errors import InvalidFilter
from services.mesh.filters import parse
from tests.filter_trees import SCHEMA


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("exists(metadata.author)", "metadata.author:*"),
        ("exists( metadata.author.name )", "metadata.author.name:*"),
        ("exists (title)", "title:*"),
        ("exists(createTime)", "create_time:*"),
        ("exists(labels.env)", "labels:env"),
        ("exists(tags)", "tags:*"),
        ("NOT exists(metadata.author)", "metadata.author = null"),
        ("-exists(metadata.author)", "metadata.author = null"),
        ("exists(title) exists(tags)", "title:* AND tags:*"),
        ('prefix(title, "Gui")', 'title = "Gui*"'),
        ("prefix(title,'Gui')", 'title = "Gui*"'),
        ("prefix( title , Gui )", 'title = "Gui*"'),
        ('prefix(metadata."two words", "a b")', 'metadata."two words" = "a b*"'),
        (r'prefix(title, "2 \* 3")', r'title = "2 \* 3*"'),
        ('NOT prefix(title, "Gui")', 'title != "Gui*"'),
        ('prefix(tags, "a") OR prefix(labels.env, "p")', 'tags = "a*" OR labels.env = "p*"'),
        ('contains(title, "uid")', 'title = "*uid*"'),
        ('contains(metadata.k, "5")', 'metadata.k = "*5*"'),
        ('(contains(title, "a") AND NOT exists(tags)) OR count = 1', '(title = "*a*" tags = null) OR count = 1'),
    ],
)
def test_a_function_is_another_spelling_of_a_comparison(text: str, same: str) -> None:
    assert parse(text, SCHEMA) == parse(same, SCHEMA)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("startsWith(title, a)", 1, "no function 'startsWith' (did you mean prefix?); functions: contains(field, "),
        ("title = a OR has(title)", 14, "no function 'has' (did you mean exists?)"),
        ("exist(title)", 1, "no function 'exist' (did you mean exists?)"),
        ("title.contains(a)", 1, "no function 'title.contains'"),
        (f"{'x' * 500}(title)", 1, "no function 'xxxx"),
        ("wibble(title)", 1, "no function 'wibble'; functions: "),
        ("exists()", 8, "exists takes one argument: exists(field)"),
        ("exists(title, tags)", 13, "exists takes one argument: exists(field)"),
        ("prefix()", 8, 'prefix takes two arguments: prefix(field, "text")'),
        ("prefix(title)", 13, "prefix takes two arguments"),
        ("prefix(, a)", 8, "prefix takes two arguments"),
        ("prefix(title, )", 15, "expected a value, found ')'"),
        ('contains(title, "a", "b")', 20, 'contains takes two arguments: contains(field, "text")'),
        ("prefix(title a)", 14, "expected a comma, found 'a)'"),
        ("exists(title = a)", 14, "expected ), found '='"),
        ("exists(title", 13, "expected ), found the end"),
        ("exists(exists(title))", 8, "no field 'exists'"),
        ('exists("title" "x")', 16, "expected ), found '\"x\")'"),
        ("exists(author)", 8, "no field 'author' (did you mean metadata.author?)"),
        ("exists(metadata)", 8, "metadata holds keys"),
        ("prefix(title, 5)", 15, "takes text, found 5; quote it to mean text"),
        ("prefix(metadata.k, true)", 20, "takes text, found true; quote it to mean text"),
        ("contains(title, null)", 17, "takes text, found null; quote it to mean text"),
        ('prefix(title, "")', 15, "takes text that is not empty"),
        ('prefix(title, "Gui*")', 15, 'prefix takes its text without a star; a plain star is "\\*"'),
        ('prefix(count, "1")', 15, "the beginning of a text cannot be asked of count, a field of type NUMBER"),
        ('contains(create_time, "2024")', 23, "a part of a text cannot be asked of create_time"),
        ('prefix(labels, "a")', 16, "labels holds keys"),
        ("title = prefix(a)", 9, "a function is no value"),
    ],
)
def test_a_call_that_means_nothing_is_refused_where_it_goes_wrong(text: str, column: int, message: str) -> None:
    with pytest.raises(InvalidFilter) as refusal:
        parse(text, SCHEMA)
    assert message in refusal.value.message
    assert refusal.value.message.startswith(f"filter: column {column}: ")


def test_a_call_counts_as_a_comparison() -> None:
    parse("exists(title)" * 256, SCHEMA)
    with pytest.raises(InvalidFilter, match="more than 256 comparisons"):
        parse("exists(title)" * 257, SCHEMA)
