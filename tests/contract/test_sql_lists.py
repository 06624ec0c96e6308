"""Pages of a list in SQL are the pages of the same list in memory, whatever the order."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import (
    Column,
    DateTime,
    Double,
    Engine,
    Integer,
    MetaData,
    Row,
    Table,
    Text,
    create_engine,
    select,
)

from services.mesh.filters import Field, FieldType, Schema
from services.mesh.lists import Listing, ListQuery, Page, paginate
from services.mesh.sql.filters import Columns
from services.mesh.sql.lists import listed
from tests.filter_trees import documents

LISTING = Listing(
    Schema(
        {
            "name": Field(FieldType.STRING),
            "title": Field(FieldType.STRING),
            "count": Field(FieldType.NUMBER),
            "weight": Field(FieldType.NUMBER),
            "create_time": Field(FieldType.TIMESTAMP),
        }
    ),
    sortable=("name", "title", "count", "weight", "create_time"),
    key="name",
    default_order="create_time desc",
)
TABLE = Table(
    "listed",
    MetaData(),
    Column("name", Text, primary_key=True),
    Column("title", Text),
    Column("count", Integer),
    Column("weight", Double),
    Column("create_time", DateTime(timezone=True)),
)
ROWS: list[dict[str, Any]] = [
    {
        "name": f"documents/{'Éa'[number % 2]}{number}",
        "title": document["title"],
        "count": document["count"],
        "weight": None if document["count"] is None else document["count"] / 3,
        "create_time": document["create_time"],
    }
    for number, document in enumerate(documents(60, seed=3))
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    engine = create_engine(url)
    TABLE.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(TABLE.insert(), ROWS)
    yield engine
    TABLE.metadata.drop_all(engine)
    engine.dispose()


def page_in_sql(engine: Engine, query: ListQuery) -> Page[Row[Any]]:
    columns = Columns({name: TABLE.c[name] for name in LISTING.schema.fields}, engine.dialect)
    found = select(TABLE).where(columns.where(query.filter))
    with engine.connect() as connection:
        rows, total = listed(found, query, columns)(connection)
    return query.page(rows, total, lambda row: row._asdict())


ORDERS = st.lists(
    st.tuples(st.sampled_from(LISTING.sortable), st.sampled_from(["", " desc", " asc"])),
    max_size=3,
    unique_by=lambda order: order[0],
).map(lambda orders: ",".join(field + direction for field, direction in orders))
FILTERS = st.sampled_from(["", "count > 0", "title = null", 'NOT title = "a*"', "weight <= 0.5", "count = 12345"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order_by=ORDERS, filter=FILTERS, page_size=st.integers(1, 25))
def test_tokens_lead_through_the_pages_that_memory_gives(
    engine: Engine, order_by: str, filter: str, page_size: int
) -> None:
    token, names = "", []
    while True:
        query = LISTING.query(filter=filter, order_by=order_by, page_size=page_size, page_token=token)
        here, expected = page_in_sql(engine, query), paginate(ROWS, query, lambda row: row)
        assert [row.name for row in here.items] == [row["name"] for row in expected.items]
        assert here.total_size == expected.total_size
        names += [row.name for row in here.items]
        token = here.next_page_token
        assert bool(token) == bool(expected.next_page_token)
        if not token:
            break
    assert len(names) == len(set(names)) == here.total_size


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(order_by=ORDERS, page=st.integers(1, 8))
def test_numbered_pages_are_those_of_memory_and_lead_on_by_token(engine: Engine, order_by: str, page: int) -> None:
    query = LISTING.query(order_by=order_by, page_size=9, page=page)
    here, expected = page_in_sql(engine, query), paginate(ROWS, query, lambda row: row)
    assert [row.name for row in here.items] == [row["name"] for row in expected.items]
    assert here.total_size == len(ROWS)
    if here.next_page_token:
        following = LISTING.query(order_by=order_by, page_size=9, page_token=here.next_page_token)
        numbered = LISTING.query(order_by=order_by, page_size=9, page=page + 1)
        assert page_in_sql(engine, following).items == page_in_sql(engine, numbered).items
