"""Every compiler of filters selects exactly what the reference evaluator selects."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Protocol

import pytest
import qdrant_client
import qdrant_edge
from hypothesis import HealthCheck, example, given, settings
from qdrant_client.conversions.conversion import RestToGrpc
from sqlalchemy import JSON, Boolean, Column, DateTime, Engine, Integer, MetaData, Table, Text, create_engine, select
from sqlalchemy.types import TypeDecorator

from services.mesh.filters import EVERYTHING, Comparison, Filter, Operator, evaluate
from services.mesh.sql.filters import Columns, add_functions
from services.retrieval.adapters.qdrant_filter import QdrantFilters
from tests.filter_trees import SCHEMA, TEXTS, TREES, documents

DOCUMENTS = documents(300, seed=7)


class Instant(TypeDecorator[datetime]):
    """A timestamp in UTC, also where the database keeps no offset."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        return value if value is None or dialect.name == "postgresql" else value.astimezone(UTC).replace(tzinfo=None)


TABLE = Table(
    "documents",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("title", Text),
    Column("count", Integer),
    Column("disabled", Boolean),
    Column("create_time", Instant),
    Column("state", Text),
    Column("tags", JSON),
    Column("labels", JSON),
    Column("metadata", JSON),
)
FIELDS = {name: TABLE.c[name] for name in SCHEMA.fields}


class Store(Protocol):
    """Documents by number, as one backend keeps them."""

    def matching(self, tree: Filter) -> set[int]: ...


class SqlStore:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._columns = Columns(FIELDS, engine.dialect)
        with engine.begin() as connection:
            TABLE.metadata.create_all(connection)
            connection.execute(TABLE.insert(), [{"id": i, **document} for i, document in enumerate(DOCUMENTS)])

    def matching(self, tree: Filter) -> set[int]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(TABLE.c.id).where(self._columns.where(tree))))


def payload(document: dict[str, Any]) -> dict[str, Any]:
    moment = document["create_time"]
    return {**document, "create_time": moment and moment.isoformat()}


INDEXES = {
    "title": qdrant_edge.PayloadSchemaType.Keyword,
    "count": qdrant_edge.PayloadSchemaType.Float,
    "disabled": qdrant_edge.PayloadSchemaType.Bool,
    "create_time": qdrant_edge.PayloadSchemaType.Datetime,
    "state": qdrant_edge.PayloadSchemaType.Keyword,
    "tags": qdrant_edge.PayloadSchemaType.Keyword,
    "metadata.k": qdrant_edge.PayloadSchemaType.Keyword,
    "metadata.tags": qdrant_edge.PayloadSchemaType.Keyword,
    "labels.k": qdrant_edge.PayloadSchemaType.Keyword,
}


class EdgeStore:
    def __init__(self, folder: str, *, indexed: bool) -> None:
        vectors = {"v": qdrant_edge.EdgeVectorParams(size=1, distance=qdrant_edge.Distance.Dot)}
        self._filters = QdrantFilters(qdrant_edge)
        self._shard = qdrant_edge.EdgeShard.create(folder, qdrant_edge.EdgeConfig(vectors=vectors))
        for key, kind in INDEXES.items() if indexed else ():
            self._shard.update(qdrant_edge.UpdateOperation.create_field_index(key, kind))
        points = [qdrant_edge.Point(i, {"v": [1.0]}, payload(document)) for i, document in enumerate(DOCUMENTS)]
        self._shard.update(qdrant_edge.UpdateOperation.upsert_points(points))

    def matching(self, tree: Filter) -> set[int]:
        request = qdrant_edge.ScrollRequest(limit=len(DOCUMENTS), filter=self._filters.compile(tree))
        return {int(record.id) for record in self._shard.scroll(request)[0]}

    def close(self) -> None:
        self._shard.close()


class ClientStore:
    def __init__(self) -> None:
        models = qdrant_client.models
        self._filters = QdrantFilters(models)
        self._client = qdrant_client.QdrantClient(":memory:")
        self._client.create_collection("c", {"v": models.VectorParams(size=1, distance=models.Distance.DOT)})
        points = [
            models.PointStruct(id=i, vector={"v": [1.0]}, payload=payload(document))
            for i, document in enumerate(DOCUMENTS)
        ]
        self._client.upsert("c", points)

    def matching(self, tree: Filter) -> set[int]:
        compiled = self._filters.compile(tree)
        RestToGrpc.convert_filter(compiled)  # what a remote server would be sent
        records, _ = self._client.scroll("c", scroll_filter=compiled, limit=len(DOCUMENTS))
        return {int(record.id) for record in records}

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "qdrant_edge", "qdrant_edge_indexed", "qdrant_client"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    match request.param:
        case "sqlite" | "postgresql":
            url = "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
            engine = create_engine(url)
            if request.param == "sqlite":
                add_functions(engine)
            yield SqlStore(engine)
            TABLE.metadata.drop_all(engine)
            engine.dispose()
        case "qdrant_edge" | "qdrant_edge_indexed":
            edge = EdgeStore(str(tmp_path_factory.mktemp("edge")), indexed=request.param == "qdrant_edge_indexed")
            yield edge
            edge.close()
        case "qdrant_client":
            client = ClientStore()
            yield client
            client.close()


def selected(tree: Filter) -> set[int]:
    return {number for number, document in enumerate(DOCUMENTS) if evaluate(tree, document)}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tree=TREES)
@example(tree=EVERYTHING)
def test_a_store_selects_what_the_reference_selects(store: Store, tree: Filter) -> None:
    assert store.matching(tree) == selected(tree)


@pytest.mark.parametrize("store", ["sqlite", "postgresql"], indirect=True)
@pytest.mark.parametrize("operator", [Operator.LT, Operator.LE, Operator.GT, Operator.GE])
def test_sql_orders_text_by_code_point(store: Store, operator: Operator) -> None:
    for text in TEXTS:
        tree = Comparison(("title",), operator, text)
        assert store.matching(tree) == selected(tree)
