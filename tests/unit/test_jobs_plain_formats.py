"""Text, CSV, JSON and source code: what needs no parser of its own."""

from typing import Any

import pytest

from services.jobs.extractor_child import answer
from services.jobs.plain_formats import Refused, csv_records, decode, html_title, json_lines, records


@pytest.mark.parametrize(
    ("content", "charset", "text"),
    [
        ("\ufeffGröße".encode(), "", "Größe"),
        ("\ufeffGröße".encode("utf-16-be"), "", "Größe"),
        ("\ufeffGröße".encode("utf-32-le"), "", "Größe"),
        ("Die Größe ist”".encode("cp1252"), "", "Die Größe ist”"),
        ("Ήταν".encode("iso-8859-7"), "iso-8859-7", "Ήταν"),
        ("日本語".encode("shift_jis"), "shift_jis", "日本語"),
        ("日本語".encode(), "latin-1", "日本語"),
        (b"plain", "no-such-thing", "plain"),
        ("Café olé".encode("latin-1"), "hex", "Café olé"),
        (b"a\r\nb\rc\n", "", "a\nb\nc\n"),
    ],
)
def test_text_is_decoded(content: bytes, charset: str, text: str) -> None:
    assert decode(content, charset) == text


def test_only_markup_is_asked_for_its_own_charset() -> None:
    page = '<meta http-equiv="Content-Type" content="text/html; charset=windows-1251"><p>Привет'.encode("cp1251")
    assert decode(page, markup=True).endswith("Привет")
    assert not decode(page).endswith("Привет")


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        ("日本語の文章".encode("shift_jis"), "UNREADABLE_DOCUMENT", "encoding cannot be told"),
        (b"abc\0def", "UNSUPPORTED_MEDIA_TYPE", "binary data"),
        (b"abc\0\xff", "UNSUPPORTED_MEDIA_TYPE", "binary data"),
        (bytes(range(1, 32)) * 4, "UNSUPPORTED_MEDIA_TYPE", "binary data"),
        (b"\xff\xfea", "UNREADABLE_DOCUMENT", "not valid UTF-16-LE"),
    ],
)
def test_what_is_no_text_is_refused(content: bytes, reason: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as refused:
        decode(content)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('name;age\n"Ann";3\n"B, ""b""";4\n', 'name: Ann; age: 3\nname: B, "b"; age: 4'),
        ("name,age\nAnn,\n\nBob,4,extra\n", "name: Ann\nname: Bob; age: 4; extra"),
        ('a,b\n"two\nlines",x\n', "a: two lines; b: x"),
        ("1,2\n3,4\n", "1, 2\n3, 4"),
        ("a,a\n3,4\n", "a, a\n3, 4"),
        ("just one line", "just one line"),
        ("", ""),
    ],
)
def test_csv_rows_stand_under_their_columns(content: str, text: str) -> None:
    assert csv_records(content) == text


def test_a_csv_field_without_end_is_refused() -> None:
    with pytest.raises(Refused, match="do not parse as CSV"):
        csv_records('a,b\n"' + "x" * (2 << 20))


def test_records_skip_rows_without_values() -> None:
    assert list(records([["", ""], ["a", "b"], ["", ""], ["1", ""]])) == ["a: 1"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('[{"a": {"b": [1.50, true, null, ""]}}, "x"]', "a.b[0]: 1.50\na.b[1]: true\n\nx"),
        ('{"title": "Hé", "n": 12345678901234567890}', "title: Hé\nn: 12345678901234567890"),
        ('{"a": 1}\n\n{"a": 2}\n', "a: 1\n\na: 2"),
        ("[" * 90 + "1" + "]" * 90, "[0]" * 89 + ": 1"),
        ("{}", ""),
    ],
)
def test_json_values_stand_under_their_paths(content: str, text: str) -> None:
    assert json_lines(content) == text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a":\n x}', "line 2 column 2"),
        ('{"a": 1}\n{"a": \n', "line 2 column"),
        ("", "line 1 column 1"),
        ("[" * 500_000, "nested too deep"),
        ('{"a":' * 500_000, "nested too deep"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(content: str, message: str) -> None:
    with pytest.raises(Refused, match=message):
        json_lines(content)


@pytest.mark.parametrize(
    ("markup", "title"),
    [
        ("<TITLE lang=en>\n A &amp; B\n</TITLE>", "A & B"),
        ("<title>never closed", ""),
        ("<p>none", ""),
    ],
)
def test_html_titles_are_read(markup: str, title: str) -> None:
    assert html_title(markup) == title


def request(media_type: str, **more: Any) -> dict[str, Any]:
    return {"media_type": media_type, "charset": "", "max_text_chars": 100, **more}


def test_the_child_answers_with_text_and_its_syntax() -> None:
    reply, body = answer(request("text/markdown"), "# Größe".encode())
    assert (reply["syntax"], body.decode()) == ("markdown", "# Größe")
    assert answer(request("text/x-source"), b"x")[0]["syntax"] == "code"
    assert answer(request("text/tab-separated-values"), b"a\tb\n1\t2")[1] == b"a: 1; b: 2"


def test_the_child_answers_with_a_refusal() -> None:
    assert answer(request("text/plain"), b" ")[0]["reason"] == "NO_TEXT_FOUND"
    assert answer(request("text/plain"), b"x" * 101)[0]["reason"] == "DOCUMENT_TOO_LARGE"
    assert answer(request("application/json"), b"{")[0]["reason"] == "UNREADABLE_DOCUMENT"


def test_text_that_cannot_be_stored_is_made_harmless_without_moving_offsets() -> None:
    reply, body = answer(request("application/json"), rb'["a\u0000b\ud800c"]')
    assert "reason" not in reply
    assert body.decode() == "a b?c"
