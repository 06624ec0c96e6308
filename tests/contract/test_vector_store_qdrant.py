"""What the adapter of a Qdrant server does where the server does not answer."""

import pytest

from services.mesh.errors import DependencyUnavailable
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.chunks import IndexId


async def test_a_server_that_does_not_answer_is_told_without_its_driver() -> None:
    async with QdrantVectorStore.open("http://127.0.0.1:1", timeout_s=5) as store:
        for asked in (store.check(), store.count(IndexId("uid-1")), store.ensure_index(IndexId("uid-1"), 4)):
            with pytest.raises(DependencyUnavailable, match=r"^the vector store does not answer$"):
                await asked
