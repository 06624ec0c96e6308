"""Resource names and the ids of documents made from files."""

import re

from hypothesis import given
from hypothesis import strategies as st

from ragweave.names import ID_MAX, collection_name, document_id_from, document_name, last_id


def test_a_bare_id_and_a_name_mean_the_same_collection() -> None:
    assert collection_name("a") == collection_name("collections/a") == "collections/a"
    assert document_name("collections/a", "d") == document_name("a", "d") == "collections/a/documents/d"
    assert last_id("collections/a/documents/d") == "d"
    assert last_id("d") == "d"


def test_a_plain_file_name_is_its_own_id() -> None:
    assert document_id_from("guide-1.2_final.md") == "guide-1.2_final.md"


def test_a_path_is_spelt_readably_with_a_mark_of_its_own() -> None:
    assert re.fullmatch(r"docs\.Uber-uns\.md-[0-9a-f]{10}", document_id_from("docs/Über uns.md"))


@given(st.text(min_size=1, max_size=400))
def test_every_source_has_a_valid_id(source: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", document_id_from(source))
    assert len(document_id_from(source)) <= ID_MAX


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_sources_never_share_an_id(one: str, other: str) -> None:
    assert (document_id_from(one) == document_id_from(other)) == (one == other)
