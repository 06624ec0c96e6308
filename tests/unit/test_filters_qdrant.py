"""What the Qdrant compiler does beside selecting: names of payload keys, and what it must refuse."""

import pytest
import qdrant_client
import qdrant_edge

from services.mesh.errors import InvalidFilter
from services.mesh.filters import Comparison, Operator, parse
from services.retrieval.adapters.qdrant_filter import QdrantFilters
from tests.filter_trees import SCHEMA


@pytest.mark.parametrize("types", [qdrant_client.models, qdrant_edge])
def test_text_cannot_be_ordered(types: object) -> None:
    with pytest.raises(InvalidFilter, match="title cannot be ordered"):
        QdrantFilters(types).compile(Comparison(("title",), Operator.LT, "m"))  # type: ignore[arg-type]


def test_declared_fields_may_live_under_other_payload_keys() -> None:
    filters = QdrantFilters(qdrant_client.models, keys={"metadata": "m", "title": "document.title"})
    compiled = filters.compile(parse('title = a metadata."two words".k = b count = 1', SCHEMA))
    assert [condition.key for condition in compiled.must] == ["document.title", 'm."two words".k', "count"]
