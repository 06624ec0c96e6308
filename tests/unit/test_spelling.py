"""Fields in refusals go by the names their caller knows."""

import pytest
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from ragweave import contract
from services.mesh.errors import InvalidArgument, Violation
from services.mesh.spelling import for_rest, json_path
from services.mesh.status import status_of

SEARCH = contract.method("/ragweave.v1.RetrievalService/Search")
CREATE = contract.method("/ragweave.v1.CollectionService/CreateCollection")
UPLOAD = contract.method("/ragweave.v1.DocumentService/UploadDocument")


@pytest.mark.parametrize(
    ("method", "path", "spelt"),
    [
        (SEARCH, "top_k", "topK"),
        (SEARCH, "fusion.rrf.dense_weight", "fusion.rrf.denseWeight"),
        (SEARCH, "typed_filter.all_of[2].comparisons[0].field", "typedFilter.allOf[2].comparisons[0].field"),
        (SEARCH, "of_no_message.at_all", "of_no_message.at_all"),
        (SEARCH, "", ""),
        (CREATE, "collection_id", "collectionId"),
        (CREATE, "collection", "collection"),
        (CREATE, "collection.chunking.max_tokens", "chunking.maxTokens"),
        (CREATE, 'collection.labels["max_tokens.of]it"]', 'labels["max_tokens.of]it"]'),
        (UPLOAD, "metadata_json", "metadataJson"),
        (UPLOAD, "file.content_type", "contentType"),
    ],
)
def test_a_path_of_the_contract_is_spelt_as_json_in_the_body(method: contract.Method, path: str, spelt: str) -> None:
    assert json_path(path, method) == spelt


def test_the_message_is_spelt_as_its_violations() -> None:
    error = InvalidArgument("top_k: too many", violations=[Violation("top_k", "too many"), Violation("min_score", "x")])
    status = for_rest(status_of(error), SEARCH)
    bad = details.BadRequest()
    assert status.message == "topK: too many"
    assert status.details[0] == status_of(error).details[0], "the other details stay"
    assert status.details[1].Unpack(bad)
    assert [each.field for each in bad.field_violations] == ["topK", "minScore"]


def test_a_refusal_of_no_field_stays_as_it_is() -> None:
    status = Status(code=5, message="top_k: no such collection")
    assert for_rest(status, SEARCH) == status
