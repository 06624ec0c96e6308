"""Paths as text: one spelling each, and back."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.mesh.errors import PathNotAllowed
from services.mesh.paths import MAX_BYTES, legible, names_in, shown

NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not {0, 47} & set(name) and name not in (b".", b".."))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain.md", "plain.md"),
        ("Übung 1, Lösung.md".encode(), "Übung 1, Lösung.md"),
        (b"100%25.pdf", "100%25.pdf"),
        (b"latin-1 \xfcbung", r"latin-1 \xfcbung"),
        (b"line\nbreak", r"line\x0abreak"),
        (b"back\\slash", r"back\\slash"),
        (b"\\xff", r"\\xff"),
        ("\u202egpj.exe".encode(), r"\xe2\x80\xaegpj.exe"),
        (b"\xc2\x85", r"\xc2\x85"),
        (b"\x7f\x1b[2J", r"\x7f\x1b[2J"),
    ],
)
def test_a_name_is_shown_so_that_it_can_be_read_and_sent_back(name: bytes, text: str) -> None:
    assert shown(os.fsdecode(name)) == text
    assert names_in(text) == (os.fsdecode(name),)


@given(st.lists(NAMES, min_size=1, max_size=5))
def test_every_name_a_file_can_have_comes_back_and_no_two_are_shown_alike(names: list[bytes]) -> None:
    text = shown("/".join(map(os.fsdecode, names)))
    assert [os.fsencode(name) for name in names_in(text)] == names
    text.encode()  # fit for JSON and protobuf
    assert not any(ord(char) < 32 for char in text)


@given(st.text(max_size=60))
def test_whatever_text_is_taken_for_a_path_is_the_one_spelling_of_it(text: str) -> None:
    try:
        names = names_in(text)
    except PathNotAllowed as error:
        error.message.encode()
        return
    assert names_in(shown("/".join(names))) == names
    assert ".." not in names
    for name in names:
        assert name
        assert not set("/\0") & set(name)


@pytest.mark.parametrize(
    "path",
    [
        *("..", "../x", "a/..", "a/../b", "/..", "./../x"),
        *("a\0b", "a\nb", "a\x7f", "\x85", "\u202ea", "\u2066", "a\u2028b", "\udcff", "\ud800"),
        *(
            "\\",
            "a\\b",
            "..\\..\\x",
            "\\x",
            "\\xf",
            "\\xFF",
            "\\x2e\\x2e",
            "\\x2f",
            "\\x5c",
            "\\x41",
            "\\x00",
            "\\u002e",
        ),
        *("\\xc3\\xbc", "\\xff\\", "x" * (MAX_BYTES + 1), "ü" * (MAX_BYTES // 2 + 1)),
    ],
)
def test_what_shown_would_not_have_written_is_refused(path: str) -> None:
    with pytest.raises(PathNotAllowed) as refused:
        names_in(path)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 1000


def test_slashes_that_add_nothing_and_the_place_itself_count_for_nothing() -> None:
    assert names_in("./a//b/./c/") == ("a", "b", "c")
    assert names_in("") == names_in(".") == names_in("/") == ()
    assert names_in(".../..a/a..") == ("...", "..a", "a..")


def test_a_path_in_a_message_is_escaped_and_cut() -> None:
    assert legible("a\x1b[2J\u202eb\ud800") == r"a\x1b[2J\xe2\x80\xaeb\ud800"
    assert legible("x" * 1000) == "x" * 100 + "..." + "x" * 100
