"""Page sizes, order, tokens and pages, as every List method has them."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.mesh.errors import InvalidArgument, InvalidFilter, InvalidPageToken
from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing, Order, coerced_page_size, paginate
from tests.filter_trees import EPOCH

LISTING = Listing(
    Schema(
        {
            "name": Field(FieldType.STRING),
            "title": Field(FieldType.STRING),
            "count": Field(FieldType.NUMBER),
            "disabled": Field(FieldType.BOOL),
            "create_time": Field(FieldType.TIMESTAMP),
            "metadata": Field(FieldType.STRUCT),
        }
    ),
    sortable=("name", "title", "count", "disabled", "create_time"),
    key="name",
    default_order="create_time desc",
)
ITEMS: list[dict[str, Any]] = [
    {
        "name": f"n{number:02}",
        "title": None if number % 5 == 0 else "xyz"[number % 3],
        "count": number % 4,
        "disabled": number % 2 == 0,
        "create_time": EPOCH.replace(day=1 + number % 7),
    }
    for number in range(25)
]


def names(**fields: Any) -> list[str]:
    return [item["name"] for item in paginate(ITEMS, LISTING.query(**fields), lambda item: item).items]


@pytest.mark.parametrize(("asked", "given_"), [(0, 20), (1, 1), (100, 100), (101, 100), (2**31 - 1, 100)])
def test_page_sizes_are_coerced(asked: int, given_: int) -> None:
    assert coerced_page_size(asked) == given_


@pytest.mark.parametrize("fields", [{"page_size": -1}, {"page": -1}, {"page": 1, "page_token": "x"}])
def test_negative_sizes_and_two_ways_to_page_at_once_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        LISTING.query(**fields)
    assert refusal.value.violations[0].field in fields


@pytest.mark.parametrize(
    ("order_by", "orders"),
    [
        ("", [Order("create_time", True), Order("name")]),
        ("title", [Order("title"), Order("name")]),
        (" title  desc ,count asc", [Order("title", True), Order("count"), Order("name")]),
        ("createTime", [Order("create_time"), Order("name")]),
        ("name desc", [Order("name", True)]),
        ("name desc, title", [Order("name", True)]),
    ],
)
def test_every_order_ends_with_the_unique_key(order_by: str, orders: list[Order]) -> None:
    assert LISTING.ordered(order_by) == tuple(orders)


@pytest.mark.parametrize(
    "order_by", ["size", "title up", "title,", "title desc desc", "metadata.k", "title; drop", ","]
)
def test_another_order_is_refused_naming_the_supported_fields(order_by: str) -> None:
    with pytest.raises(InvalidArgument, match="supported: name, title, count, disabled, create_time"):
        LISTING.query(order_by=order_by)


def test_a_field_comes_once_in_an_order() -> None:
    with pytest.raises(InvalidArgument, match="title comes twice"):
        LISTING.query(order_by="title, title desc")


def test_a_filter_that_does_not_parse_is_refused() -> None:
    with pytest.raises(InvalidFilter, match="no field 'size'"):
        LISTING.query(filter="size = 3")


ORDER = st.lists(st.sampled_from(LISTING.sortable), max_size=3, unique=True).flatmap(
    lambda fields: st.tuples(*(st.sampled_from([field, f"{field} desc"]) for field in fields)).map(", ".join)
)


@given(order_by=ORDER, page_size=st.integers(1, 30), filter=st.sampled_from(["", "count > 1", "title = null"]))
@settings(max_examples=200, deadline=None)
def test_tokens_lead_through_every_item_once_and_in_order(order_by: str, page_size: int, filter: str) -> None:
    whole = names(order_by=order_by, page_size=100, filter=filter)
    token, found, sizes = "", [], []
    while True:
        query = LISTING.query(order_by=order_by, page_size=page_size, filter=filter, page_token=token)
        page = paginate(ITEMS, query, lambda item: item)
        assert page.total_size == len(whole)
        found += [item["name"] for item in page.items]
        sizes.append(len(page.items))
        token = page.next_page_token
        if not token:
            break
    assert found == whole
    assert all(size == page_size for size in sizes[:-1])


def test_missing_values_come_lowest() -> None:
    titles = {item["name"]: item["title"] for item in ITEMS}
    assert [titles[name] for name in names(order_by="title", page_size=5)] == [None] * 5
    assert None not in [titles[name] for name in names(order_by="title desc", page_size=20)]


def test_an_item_removed_between_pages_moves_no_other() -> None:
    first = paginate(ITEMS, LISTING.query(order_by="name", page_size=3), lambda item: item)
    query = LISTING.query(order_by="name", page_size=3, page_token=first.next_page_token)
    later = paginate(ITEMS[3:], query, lambda item: item)
    assert [item["name"] for item in later.items] == ["n03", "n04", "n05"]


def test_numbered_pages_count_from_one_and_lead_on_by_token() -> None:
    assert names(order_by="name", page_size=10, page=1) == names(order_by="name", page_size=10)
    assert names(order_by="name", page_size=10, page=3) == [f"n{number}" for number in range(20, 25)]
    assert names(order_by="name", page_size=10, page=4) == []
    second = paginate(ITEMS, LISTING.query(order_by="name", page_size=10, page=2), lambda item: item)
    assert names(order_by="name", page_size=10, page_token=second.next_page_token) == names(
        order_by="name", page_size=10, page=3
    )


def test_a_token_belongs_to_its_filter_order_and_parent_but_not_to_a_page_size() -> None:
    def query(**changed: Any) -> Any:
        fields = {"filter": "count > 0", "order_by": "title", "parent": "collections/a", "page_size": 3}
        return LISTING.query(**(fields | changed))

    token = paginate(ITEMS, query(), lambda item: item).next_page_token
    assert query(page_token=token, page_size=7).page_size == 7
    assert query(page_token=token, filter="(count>0)").cursor is not None
    for changed in ({"filter": "count > 1"}, {"order_by": "title desc"}, {"parent": "collections/b"}):
        with pytest.raises(InvalidPageToken, match="another filter, order_by or parent"):
            query(page_token=token, **changed)


def forged(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


@pytest.mark.parametrize(
    "values",
    [
        [{"t": "soon"}, "n01"],
        [5, "n01"],
        ["2024-01-01", "n01"],
        [None, None],
        [None, 7],
        [None, "\0"],
        [None, "\ud800"],
        [None, {"t": "2024-01-01"}],
        [None, ["n01"]],
        [None],
        None,
        [None, "n01", "n02"],
    ],
)
def test_a_made_up_token_reaches_no_database(values: Any) -> None:
    binding = LISTING.query().binding
    with pytest.raises(InvalidPageToken):
        LISTING.query(page_token=forged([1, binding, values]))
    assert LISTING.query(page_token=forged([1, binding, [None, "n01"]])).cursor == (None, "n01")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 2**63, True, "1"])
def test_a_made_up_number_reaches_no_database(number: Any) -> None:
    binding = LISTING.query(order_by="count").binding
    with pytest.raises(InvalidPageToken):
        LISTING.query(order_by="count", page_token=forged([1, binding, [number, "n01"]]))


@given(
    token=st.one_of(st.text(min_size=1), st.binary(min_size=1).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
)
def test_any_other_text_is_refused_as_a_token(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        LISTING.query(page_token=token)


def test_deeply_nested_json_is_refused_as_a_token() -> None:
    raw = base64.urlsafe_b64encode(b"[" * 100_000).decode()
    with pytest.raises(InvalidPageToken):
        LISTING.query(page_token=raw)
