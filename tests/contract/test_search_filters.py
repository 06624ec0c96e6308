"""A filter finds what it means, in every store: 2,000 random ones by `make filter-test`, 100 in the suite."""

import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import JSON, Column, Engine, Integer, MetaData, Table, Text, create_engine, insert, select

from ragweave.internal.v1 import index_service_pb2 as index_pb
from services.mesh.filters import Filter, canonical, evaluate, parse, unparse
from services.mesh.filters.typed import from_typed
from services.mesh.sql.columns import Instant
from services.mesh.sql.filters import Columns, add_functions
from services.retrieval import convert
from services.retrieval.adapters.edge import EdgeVectorStore
from services.retrieval.adapters.qdrant_payload import payload_of
from services.retrieval.chunks import EncodedChunk, IndexId, VectorQuery
from services.retrieval.filterable import SCHEMA
from services.retrieval.ports import VectorStore
from tests.filter_meanings import Asker, documents, holds
from tests.qdrant_stores import qdrant_store
from tests.retrieval_fakes import MemoryVectorStore, chunk, direction, encoded, vector

pytestmark = [
    pytest.mark.filterwarnings("ignore:Local mode performs exact"),
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.timeout(600),
]

FILTERS = int(os.environ.get("FILTERS", "100"))
DOCUMENTS = documents(150, seed=20)
INDEX = IndexId("uid-1")
EVERY = VectorQuery(vector(direction("anything")), None, limit=len(DOCUMENTS), depth=len(DOCUMENTS))
TABLE = Table(
    "searched",
    MetaData(),
    *(Column(name, Text) for name in ("document", "title", "source_uri", "mime_type", "section")),
    Column("page_number", Integer),
    Column("create_time", Instant),
    Column("metadata", JSON),
)


def encoded_of(document: dict[str, Any]) -> EncodedChunk:
    """A chunk of the document, as it comes from the contract: numbers of metadata are doubles there."""
    fields = index_pb.DocumentFields(
        document_id=document["document"],
        **{name: document[name] for name in ("title", "source_uri", "mime_type", "create_time")},
    )
    fields.metadata.update(document["metadata"])
    made = chunk(document["document"], section=document["section"], page_number=document["page_number"])
    return encoded(replace(made, document=convert.document_from(fields)), scale=1)


class Store(Protocol):
    """Finds documents."""

    async def matching(self, tree: Filter) -> set[str]: ...


class Index:
    """A vector store's."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    async def fill(self) -> "Index":
        await self._store.ensure_index(INDEX, 4)
        # Half of them get their fields later, as a change of a document's gives them.
        first, then = DOCUMENTS[::2], DOCUMENTS[1::2]
        await self._store.upsert(INDEX, [encoded_of(each) for each in first])
        await self._store.upsert(
            INDEX, [encoded_of({**each, "metadata": {"due": "2024-5-1", "k": "x"}}) for each in then]
        )
        for each in then:
            metadata = encoded_of(each).chunk.document.metadata
            await self._store.set_fields(INDEX, [each["document"]], {"metadata": metadata})
        return self

    async def matching(self, tree: Filter) -> set[str]:
        found = await self._store.search(INDEX, replace(EVERY, filter=tree))
        return {hit.chunk.document.document_id for hit in found.hits}


class Lists:
    """The SQL that lists of resources are made by."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._columns = Columns({column.name: column for column in TABLE.columns}, engine.dialect)
        with engine.begin() as connection:
            TABLE.metadata.create_all(connection)
            connection.execute(insert(TABLE), DOCUMENTS)

    async def matching(self, tree: Filter) -> set[str]:
        with self._engine.connect() as connection:
            return set(connection.scalars(select(TABLE.c.document).where(self._columns.where(tree))))


@pytest.fixture(params=["memory", "edge", "edge with a graph", "qdrant", "sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    match request.param:
        case "memory":
            yield await Index(MemoryVectorStore()).fill()
        case "edge" | "edge with a graph":
            async with EdgeVectorStore.open(tmp_path / "index") as edge:
                filled = await Index(edge).fill()
                if request.param != "edge":
                    await edge.build(INDEX)
                yield filled
        case "qdrant":
            async with qdrant_store(INDEX) as qdrant:
                yield await Index(qdrant).fill()
        case "sqlite" | "postgresql":
            engine = create_engine(
                "sqlite://" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
            )
            if request.param == "sqlite":
                add_functions(engine)
            yield Lists(engine)
            TABLE.metadata.drop_all(engine)
            engine.dispose()


async def test_a_random_filter_finds_what_it_means(request: pytest.FixtureRequest, store: Store) -> None:
    found_some = 0
    for seed in range(FILTERS):
        asker = Asker(seed)
        meaning = asker.meaning()
        text = asker.text(meaning)
        wanted = {each["document"] for each in DOCUMENTS if holds(meaning, each)}
        assert await store.matching(parse(text, SCHEMA)) == wanted, f"seed {seed}: {text}"
        found_some += 0 < len(wanted) < len(DOCUMENTS)
    print(f"{request.node.name}: {FILTERS} filters, {found_some} of them choose some documents and not all: identical")
    assert found_some > FILTERS / 3


def test_text_and_message_and_python_agree_on_a_random_filter() -> None:
    payloads = {each["document"]: payload_of(encoded_of(each)) for each in DOCUMENTS}
    for seed in range(FILTERS):
        asker = Asker(seed)
        meaning = asker.meaning()
        text, message = asker.text(meaning), asker.message(meaning)
        tree = parse(text, SCHEMA)
        form = canonical(tree)
        assert unparse(canonical(from_typed(message, SCHEMA))) == unparse(form), f"seed {seed}: {text}"
        wanted = {each["document"] for each in DOCUMENTS if holds(meaning, each)}
        for each in (tree, form):
            assert {name for name, payload in payloads.items() if evaluate(each, payload)} == wanted, (seed, text)
