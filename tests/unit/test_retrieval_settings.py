"""Settings of the retrieval service, and which store they open."""

import pytest
from pydantic import ValidationError

from services.retrieval.__main__ import open_store
from services.retrieval.adapters.qdrant import QdrantVectorStore
from services.retrieval.settings import Settings


def test_the_store_is_embedded_unless_told_otherwise() -> None:
    assert Settings().store == "edge"


def test_a_qdrant_store_needs_its_url() -> None:
    with pytest.raises(ValidationError, match="RAGWEAVE_RETRIEVAL_QDRANT_URL"):
        Settings(store="qdrant")


async def test_settings_pick_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_RETRIEVAL_STORE", "qdrant")
    monkeypatch.setenv("RAGWEAVE_RETRIEVAL_QDRANT_URL", "http://127.0.0.1:1")
    async with open_store(Settings()) as store:
        assert isinstance(store, QdrantVectorStore)
