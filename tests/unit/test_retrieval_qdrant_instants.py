"""Which chunks carry their timestamps a second time, and how."""

import pytest

from services.retrieval.adapters.qdrant_instants import instants_of
from services.retrieval.adapters.qdrant_payload import fields_payload
from tests.filter_meanings import MOMENTS, NO_MOMENTS


@pytest.mark.parametrize("text", [text for text in MOMENTS if text != "2024-05-01t00:00:00"])
def test_what_qdrant_reads_as_filters_do_is_carried_once(text: str) -> None:
    assert instants_of({"due": text, "more": [text, {"at": text}], "n": 1.0, "title": "10 - 12 - a"}) is None


@pytest.mark.parametrize("text", [*(each for each in NO_MOMENTS if each.count("-") > 1), "2024-05-01t00:00:00"])
def test_what_it_reads_otherwise_makes_true_timestamps_be_carried_too(text: str) -> None:
    at = ["2024-05-01T00:00:00Z"] if text.endswith("t00:00:00") else []
    metadata = {"a": "2024-05-01T02:00:00+02:00", "b": {"c": ["x", text, "2024-05-02", ["2024-05-03"]]}, "n": 5.0}
    carried = {"a": "2024-05-01T00:00:00Z", "b": {"c": [*at, "2024-05-02T00:00:00Z"]}}
    assert instants_of(metadata) == carried
    assert instants_of({"a": text}) == ({"a": at[0]} if at else {})


def test_new_metadata_takes_the_old_timestamps_with_it() -> None:
    assert fields_payload({"metadata": {"a": "x"}}, 1)["instants"] is None
    assert fields_payload({"metadata": {"a": "2024-5-1"}}, 1)["instants"] == {}
    assert "instants" not in fields_payload({"title": "x"}, 1)
