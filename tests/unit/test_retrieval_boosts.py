"""Boosts: what a factor is, and what it does to a ranking."""

from datetime import UTC, datetime
from typing import Any

import pytest

from services.mesh.errors import InvalidArgument, InvalidFilter
from services.retrieval.boosts import BoostAsked, Curve, DecayAsked, boosted, resolved
from tests.retrieval_fakes import chunk, hit, view
from tests.retrieval_rig import Searching, documents

NOW = datetime(2025, 3, 1, 12, 30, 45, tzinfo=UTC)


def factor(boost: BoostAsked, **fields: Any) -> float:
    (found,) = resolved([boost], clock=lambda: NOW)
    return found.factor_of(chunk(**fields))


def of(metadata: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"document_fields": {"metadata": metadata, **fields}}


def decay(field: str = "metadata.n", origin: float | str | None = 10.0, **fields: Any) -> BoostAsked:
    return BoostAsked(decay=DecayAsked(field, origin, **{"scale": 4.0, **fields}))


def test_a_factor_counts_where_its_filter_holds() -> None:
    boost = BoostAsked("metadata.year >= 2020 AND NOT title = draft", 3.0)
    assert factor(boost, **of({"year": 2021.0})) == 3.0
    assert factor(boost, **of({"year": 2019.0})) == 1.0
    assert factor(boost, **of({"year": 2021.0}, title="draft")) == 1.0
    assert factor(boost) == 1.0


@pytest.mark.parametrize("name", ["d7", "collections/docs/documents/d7"])
def test_a_filter_may_name_a_document_in_full(name: str) -> None:
    assert factor(BoostAsked(f'document = "{name}"', 2.0), document="d7") == 2.0


@pytest.mark.parametrize(
    ("curve", "factors"),
    [
        (Curve.EXPONENTIAL, {0: 1.0, 2: 0.5**0.5, 4: 0.5, 8: 0.25, 4000: 0.0}),
        (Curve.GAUSSIAN, {0: 1.0, 2: 0.5**0.25, 4: 0.5, 8: 0.0625, 4000: 0.0}),
        (Curve.LINEAR, {0: 1.0, 2: 0.75, 4: 0.5, 8: 0.0, 4000: 0.0}),
    ],
)
def test_a_factor_falls_with_distance_on_both_sides(curve: Curve, factors: dict[float, float]) -> None:
    for distance, wanted in factors.items():
        for value in (10.0 - distance, 10.0 + distance):
            assert factor(decay(curve=curve), **of({"n": value})) == pytest.approx(wanted)


def test_the_curve_begins_at_the_offset_and_passes_the_midpoint_a_scale_further() -> None:
    for curve in Curve:
        boost = decay(curve=curve, offset=3.0, midpoint=0.2)
        assert factor(boost, **of({"n": 13.0})) == 1.0
        assert factor(boost, **of({"n": 17.0})) == pytest.approx(0.2)


def test_instants_are_apart_in_seconds_and_now_is_to_the_minute() -> None:
    day = 86_400.0
    created = {"document_fields": {"create_time": datetime(2025, 2, 28, 12, 30, tzinfo=UTC)}}
    assert factor(decay("create_time", None, scale=day), **created) == pytest.approx(0.5)
    assert factor(decay("create_time", "2025-02-27T12:30:00Z", scale=day), **created) == pytest.approx(0.5)
    assert factor(decay("metadata.at", None, scale=day), **of({"at": "2025-02-27T13:30:00+01:00"})) == 0.25


@pytest.mark.parametrize("value", [None, "text", True, {"a": 1.0}, [], ["text"], "2025-01-01"])
def test_what_does_not_compare_to_the_origin_keeps_its_score(value: Any) -> None:
    assert factor(decay(), **of({"n": value})) == factor(decay(), **of({})) == 1.0
    assert factor(decay(origin="2025-01-01"), **of({"n": 5.0})) == 1.0


def test_of_a_list_the_nearest_value_counts() -> None:
    assert factor(decay(), **of({"n": [90.0, 14.0, "text"]})) == pytest.approx(0.5)


def test_a_passage_without_a_page_is_near_to_none() -> None:
    boost = decay("page_number", 1.0)
    assert factor(boost, page_number=5) == pytest.approx(0.5)
    assert factor(boost, page_number=0) == 1.0


def test_factors_multiply_and_more_is_better_of_negative_scores_too() -> None:
    boosts = resolved([BoostAsked("document = b", 2.0), BoostAsked('document = "b" OR document = "c"', 3.0)])
    above = boosted([hit(chunk(document=name), 1.0) for name in "abc"], boosts)
    assert [(each.found.chunk.document.document_id, each.found.score) for each in above] == [
        ("b", 6.0),
        ("c", 3.0),
        ("a", 1.0),
    ]
    assert [(each.stage, each.score, each.rank) for each in above[0].found.stages] == [("boosts", 6.0, 1)]
    below = boosted([hit(chunk(document=name), -6.0) for name in "abc"], boosts)
    assert [(each.found.chunk.document.document_id, each.found.score) for each in below] == [
        ("b", -1.0),
        ("c", -2.0),
        ("a", -6.0),
    ]


def test_a_factor_that_fell_to_nothing_puts_hits_last_and_keeps_their_order() -> None:
    boosts = resolved([decay(scale=1e-9)])
    hits = [hit(chunk(document=name, **of({"n": 1e9})), score) for name, score in (("a", -1.0), ("b", 2.0), ("c", 1.0))]
    ranked = boosted([*hits, hit(chunk(document="d"), 0.5)], boosts)
    assert [each.found.chunk.document.document_id for each in ranked] == ["d", "b", "c", "a"]
    assert ranked[-1].found.score == pytest.approx(-1e6)


@pytest.mark.parametrize(
    ("boost", "field"),
    [
        (BoostAsked("metadata.year >", 2.0), "boosts[1].filter"),
        (BoostAsked("metadat.year > 1", 2.0), "boosts[1].filter"),
        (BoostAsked("metadata.year > 1"), "boosts[1].factor"),
        (BoostAsked("metadata.year > 1", float("nan")), "boosts[1].factor"),
        (BoostAsked(factor=2.0, decay=DecayAsked("create_time")), "boosts[1].factor"),
        (decay("created"), "boosts[1].decay.field"),
        (decay("title"), "boosts[1].decay.field"),
        (decay("metadata"), "boosts[1].decay.field"),
        (decay("metadata..x"), "boosts[1].decay.field"),
        (decay("create_time", 5.0), "boosts[1].decay.origin"),
        (decay("create_time", "yesterday"), "boosts[1].decay.origin"),
        (decay("page_number", None), "boosts[1].decay.origin"),
    ],
)
def test_what_is_wrong_with_a_boost_is_said_by_its_field(boost: BoostAsked, field: str) -> None:
    with pytest.raises((InvalidArgument, InvalidFilter)) as raised:
        resolved([BoostAsked("document = a", 1.0), boost])
    (violation,) = raised.value.violations
    assert violation.field == field
    assert raised.value.message == f"{field}: {violation.description}"
    if field.endswith("filter"):
        assert "column" in raised.value.message
        assert raised.value.metadata["column"]


async def test_boosts_see_more_than_the_page_and_pages_make_up_the_whole() -> None:
    searching = await Searching().holding()
    plain = documents(await searching.search())
    boosts = [BoostAsked(f'document = "{plain[-1]}"', 50.0)]
    whole = await searching.search(boosts=boosts, top_k=2)
    assert documents(whole) == [plain[-1], plain[0]]
    first = await searching.search(boosts=boosts, top_k=2, page_size=1)
    second = await searching.search(boosts=boosts, top_k=2, page_size=1, page_token=first.next_page_token)
    assert documents(first) + documents(second) == documents(whole)
    assert (first.total, second.next_page_token) == (2, "")


async def test_boosts_reach_over_collections() -> None:
    searching = await Searching(view(), view("more")).holding("docs", "more")
    answer = await searching.search(collections=["docs", "more"], boosts=[BoostAsked("document = apples", 90.0)])
    assert documents(answer)[:2] == ["apples", "apples"]
    assert {each.collection.collection_id for each in answer.hits[:2]} == {"docs", "more"}


async def test_without_boosts_the_store_hands_over_no_more_than_is_asked_for() -> None:
    searching = await Searching().holding()
    await searching.search(top_k=3)
    await searching.search(top_k=3, boosts=[BoostAsked("document = a", 2.0)])
    assert [query.limit for query in searching.store.queries] == [3, 200]
