"""Every public mutation can be repeated, tried without effect, and bound to what its caller has seen."""

from collections import Counter

import pytest
from google.protobuf.descriptor import FieldDescriptor

from ragweave import contract
from ragweave.contract import Method

MUTATIONS = {
    each.path.removeprefix("/ragweave.v1."): each
    for each in contract.methods().values()
    if not each.internal and each.idempotency != "NO_SIDE_EFFECTS"
}

_MAKES = "makes a resource: there is no earlier state of it to be stale"
_TESTS = "sends another test each time, which is what it is for, and keeps nothing"
_COPIES = "drops or makes copies: what is found stays the same, and twice is as once"
# What a mutation does without, and why it may. Nothing else may.
WITHOUT = {
    ("CacheService/PurgeCache", "etag"): _COPIES,
    ("CacheService/PurgeCache", "request_id"): _COPIES,
    ("CacheService/PurgeCache", "validate_only"): _COPIES,
    ("CacheService/WarmCache", "etag"): _COPIES,
    ("CacheService/WarmCache", "request_id"): _COPIES,
    ("CacheService/WarmCache", "validate_only"): _COPIES,
    ("CollectionService/CreateCollection", "etag"): _MAKES,
    ("DocumentService/CreateDocument", "etag"): _MAKES,
    ("DocumentService/UploadDocument", "etag"): _MAKES,
    ("JobService/ImportDocuments", "etag"): _MAKES,
    ("JobService/SyncCollection", "etag"): _MAKES,
    ("JobService/ReprocessDocuments", "etag"): _MAKES,
    ("JobService/PurgeDocuments", "etag"): _MAKES,
    ("JobService/ReplayDeadLetters", "etag"): "a dead letter is there or is not: one replayed meanwhile is NOT_FOUND",
    ("SystemService/CreateRevocation", "etag"): _MAKES,
    ("EvaluationService/CreateSampleQuerySet", "etag"): _MAKES,
    ("EvaluationService/CreateEvaluation", "etag"): _MAKES,
    ("WebhookService/CreateWebhook", "etag"): _MAKES,
    ("WebhookService/ReplayDelivery", "etag"): "whatever became of a delivery, it is sent again",
    ("WebhookService/TestWebhook", "etag"): _TESTS,
    ("WebhookService/TestWebhook", "request_id"): _TESTS,
    ("WebhookService/TestWebhook", "validate_only"): _TESTS,
    ("SystemService/DeleteTenant", "etag"): "takes all there is, whatever it is by then; twice is as once",
    ("SystemService/RestoreTenant", "etag"): "a tenant has a state and nothing else: DELETED is its precondition",
}


def declares(method: Method, name: str) -> bool:
    """Whether the request has the field, in whichever of its forms."""
    fields = method.descriptor.input_type.fields_by_name
    if name == "etag":
        return "etag" in fields or "etags" in fields or any(_changed(field) for field in fields.values())
    return name in fields


def _changed(field: FieldDescriptor) -> bool:
    """Whether the field is a resource of its own etag, as in an Update."""
    return field.message_type is not None and "etag" in field.message_type.fields_by_name and not field.is_repeated


@pytest.mark.parametrize("name", ["request_id", "validate_only", "etag"])
@pytest.mark.parametrize("method", MUTATIONS)
def test_every_mutation_declares_what_makes_it_safe(method: str, name: str) -> None:
    creates = method.rpartition("/")[2].startswith("Create")
    declared = declares(MUTATIONS[method], name) and not (creates and name == "etag")
    assert declared or (method, name) in WITHOUT, f"{method} has no {name}, and no reason to do without is written down"
    assert not (declared and (method, name) in WITHOUT), f"{method} has {name}: take it off the list"


def test_nothing_is_excepted_that_is_not_there() -> None:
    assert {method for method, _ in WITHOUT} <= set(MUTATIONS)


@pytest.mark.parametrize("method", [each for each in MUTATIONS if declares(MUTATIONS[each], "request_id")])
def test_request_ids_look_the_same_everywhere(method: str) -> None:
    fields = MUTATIONS[method].descriptor.input_type.fields_by_name
    rule = str(fields["request_id"].GetOptions())
    assert "max_len: 128" in rule
    assert "^[A-Za-z0-9._:-]*$" in rule
    assert fields["validate_only"].type == FieldDescriptor.TYPE_BOOL


def test_no_two_mutations_share_a_request() -> None:
    """The key of a receipt is the request's name."""
    shared = Counter(each.descriptor.input_type.name for each in MUTATIONS.values())
    assert set(shared.values()) == {1}
    for path, each in MUTATIONS.items():
        if (path, "request_id") not in WITHOUT:
            assert each.descriptor.input_type.name == f"{each.name}Request"
