"""The resource in a request is found by the contract's own fields, whatever the method."""

from typing import Any

import pytest
from google.protobuf.message import Message

from ragweave import contract
from ragweave.v1 import collection_pb2, document_pb2, job_pb2, quota_pb2, revocation_pb2
from ragweave.v1 import collection_service_pb2 as collections
from ragweave.v1 import document_service_pb2 as documents
from ragweave.v1 import job_service_pb2 as jobs
from ragweave.v1 import system_service_pb2 as system
from services.mesh.resources import MAX_LENGTH, named_by, named_in, plain

D = "collections/c/documents/d"


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        (collections.DeleteCollectionRequest(name="collections/c"), "collections/c"),
        (collections.DeleteCollectionRequest(name="c"), "c"),
        (collections.CreateCollectionRequest(collection_id="c"), "collections/c"),
        (collections.CreateCollectionRequest(collection=collection_pb2.Collection(name="collections/no")), ""),
        (collections.UpdateCollectionRequest(collection=collection_pb2.Collection(name="c")), "c"),
        (documents.CreateDocumentRequest(parent="collections/c", document_id="d"), D),
        (documents.CreateDocumentRequest(parent="collections/c"), "collections/c"),
        (documents.UploadDocumentRequest(parent="collections/c", document_id="d", filename="secret.txt"), D),
        (documents.UpdateDocumentRequest(document=document_pb2.Document(name=D)), D),
        (documents.BatchDeleteDocumentsRequest(parent="collections/c", names=[D, "x"]), f"{D},x"),
        (documents.BatchDeleteDocumentsRequest(parent="collections/c"), "collections/c"),
        (jobs.ImportDocumentsRequest(parent="collections/c"), "collections/c"),
        (jobs.SyncCollectionRequest(name="collections/c"), "collections/c"),
        (jobs.PurgeDocumentsRequest(parent="collections/c"), "collections/c"),
        (jobs.CancelJobRequest(name="jobs/j"), "jobs/j"),
        (jobs.RetryJobRequest(name="jobs/j"), "jobs/j"),
        (jobs.DeleteJobRequest(name="jobs/j"), "jobs/j"),
        (jobs.ReplayDeadLettersRequest(names=["deadLetters/j-1"]), "deadLetters/j-1"),
        (system.UpdateQuotaRequest(quota=quota_pb2.Quota(name="quotas/acme")), "quotas/acme"),
        (system.CreateRevocationRequest(revocation=revocation_pb2.Revocation(name="x", subject="ann")), ""),
        (system.DeleteTenantRequest(name="tenants/acme"), "tenants/acme"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Message) else None,
)
def test_a_request_names_what_it_is_about(request_: Message, named: str) -> None:
    assert named_in(request_) == named


@pytest.mark.parametrize(
    ("asked", "response", "named"),
    [
        ("", collection_pb2.Collection(name="collections/made"), "collections/made"),
        ("collections/c", documents.CreateDocumentResponse(document=document_pb2.Document(name=D)), D),
        ("collections/c", job_pb2.Job(name="jobs/j"), "collections/c"),
        ("c", collection_pb2.Collection(name="collections/c"), "c"),
        ("collections/c", documents.BatchDeleteDocumentsResponse(), "collections/c"),
    ],
)
def test_an_answer_names_what_the_request_left_open(asked: str, response: Message, named: str) -> None:
    assert named_by(response, asked) == named


def test_every_mutation_of_the_contract_can_be_looked_at() -> None:
    for method in contract.methods().values():
        request: Any = method.descriptor.input_type._concrete_class()
        assert named_in(request) == "", method.path
        assert named_by(method.descriptor.output_type._concrete_class(), "x") == "x"


def test_what_is_too_long_or_not_printable_is_made_so_that_any_store_takes_it() -> None:
    assert plain("a\0b\nc\u202ed", 10) == "a�b�c�d"
    assert plain("büro/☃", 10) == "büro/☃"
    names = [f"collections/c/documents/{'x' * 100}{n}" for n in range(100)]
    named = named_in(documents.BatchDeleteDocumentsRequest(parent="collections/c", names=names))
    assert len(named) <= MAX_LENGTH
    assert named.startswith(f"{names[0]},{names[1]},")
    assert named.endswith(" (+92)")
    assert len(named_in(collections.DeleteCollectionRequest(name="x" * 5000))) == MAX_LENGTH
