"""What the adapter of a Qdrant server does where the server does not answer, or was written by another version."""

import asyncio
import os
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from qdrant_client import AsyncQdrantClient

from services.mesh.errors import DependencyUnavailable
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.adapters.qdrant_keys import SCHEMA, STEPS, Step
from services.retrieval.chunks import Distance, IndexId
from tests.retrieval_fakes import chunk, direction, encoded

# Qdrant's local engine says what it leaves to the server.
pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect")

INDEX = IndexId("uid-1")
NEXT = {**STEPS, SCHEMA + 1: Step(keywords=("mime_type",), defaults={"colour": "grey"})}


@pytest.fixture
async def client() -> AsyncIterator[AsyncQdrantClient]:
    """Qdrant's own engine in this process, or the server that RAGWEAVE_QDRANT_URL names."""
    url = os.environ.get("RAGWEAVE_QDRANT_URL")
    opened = AsyncQdrantClient(url=url, prefer_grpc=True) if url else AsyncQdrantClient(":memory:")
    yield opened
    await opened.close()


@pytest.fixture
def prefix() -> str:
    return f"test-{uuid4().hex}-"


async def fill(store: QdrantVectorStore) -> None:
    await store.ensure_index(INDEX, 8)
    await store.upsert(INDEX, [encoded(chunk(f"text {n}", document="d", ordinal=n), direction(n, 8)) for n in range(9)])


async def colours(client: AsyncQdrantClient, prefix: str) -> list[object]:
    records, _ = await client.scroll(f"{prefix}{INDEX}", limit=100, with_payload=["colour"])
    return [(record.payload or {}).get("colour") for record in records]


async def version(client: AsyncQdrantClient, prefix: str) -> object:
    return ((await client.get_collection(f"{prefix}{INDEX}")).config.metadata or {}).get("ragweave_schema")


async def test_a_new_index_says_its_version(client: AsyncQdrantClient, prefix: str) -> None:
    await fill(QdrantVectorStore(client, prefix=prefix))
    assert await version(client, prefix) == SCHEMA


async def test_an_older_index_is_brought_forward_with_its_chunks(client: AsyncQdrantClient, prefix: str) -> None:
    await fill(QdrantVectorStore(client, prefix=prefix))
    # Two replicas of the next version at once, and a third after them.
    replicas = [QdrantVectorStore(client, prefix=prefix, steps=NEXT) for _ in range(3)]
    assert await asyncio.gather(replicas[0].count(INDEX), replicas[1].count(INDEX)) == [9, 9]
    assert await replicas[2].count(INDEX) == 9
    assert await colours(client, prefix) == ["grey"] * 9
    assert await version(client, prefix) == SCHEMA + 1


async def test_an_index_whose_creation_was_cut_short_is_completed(client: AsyncQdrantClient, prefix: str) -> None:
    await QdrantVectorStore(client, prefix=prefix)._create(INDEX, 8, Distance.COSINE)
    assert await version(client, prefix) is None
    await fill(QdrantVectorStore(client, prefix=prefix))
    assert await version(client, prefix) == SCHEMA


async def test_a_newer_index_is_refused_by_name_and_left_alone(client: AsyncQdrantClient, prefix: str) -> None:
    await fill(QdrantVectorStore(client, prefix=prefix, steps=NEXT))
    store = QdrantVectorStore(client, prefix=prefix)
    for asked in (store.count(INDEX), store.delete_documents(INDEX, ["d"]), store.drop(INDEX), fill(store)):
        with pytest.raises(DependencyUnavailable, match=f"at schema {SCHEMA + 1}.* up to {SCHEMA}: start the version"):
            await asked
    assert await QdrantVectorStore(client, prefix=prefix, steps=NEXT).count(INDEX) == 9


async def test_a_server_that_does_not_answer_is_told_without_its_driver() -> None:
    async with QdrantVectorStore.open("http://127.0.0.1:1", timeout_s=5) as store:
        for asked in (store.check(), store.count(IndexId("uid-1")), store.ensure_index(IndexId("uid-1"), 4)):
            with pytest.raises(DependencyUnavailable, match=r"^the vector store does not answer$"):
                await asked
