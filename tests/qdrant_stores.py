"""The adapter of a Qdrant server as contract suites open it: over a real connection."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.chunks import IndexId
from tests.qdrant_server import qdrant_server


@asynccontextmanager
async def qdrant_store(*indexes: IndexId) -> AsyncIterator[QdrantVectorStore]:
    """A store on the server that RAGWEAVE_QDRANT_URL names, or on a stand-in for one; `indexes` do not outlast it."""
    if url := os.environ.get("RAGWEAVE_QDRANT_URL"):
        async with QdrantVectorStore.open(url, prefix=f"test-{uuid4().hex}-") as store:
            yield store
            for index in indexes:
                await store.drop(index)
    else:
        async with qdrant_server() as stand_in, QdrantVectorStore.open(stand_in) as store:
            yield store
