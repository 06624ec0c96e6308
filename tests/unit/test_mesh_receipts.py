"""The rule of request ids by itself."""

import pytest

from ragweave.v1 import collection_service_pb2 as pb
from services.mesh.errors import AlreadyExists, DependencyUnavailable, RequestIdReused
from services.mesh.receipts import Receipt, once, receipt_from
from tests.mesh.harness import caller_of

KEY = Receipt("acme", "CreateCollection", "k", "body")


def request(**fields: object) -> pb.CreateCollectionRequest:
    return pb.CreateCollectionRequest(**{"collection": {"labels": {"a": "1", "b": "2"}}, "request_id": "k", **fields})


def test_a_receipt_names_tenant_method_id_and_body() -> None:
    made = receipt_from(request(), caller_of(tenant="acme"))
    assert made
    assert (made.tenant, made.method, made.request_id) == ("acme", "CreateCollection", "k")
    same = receipt_from(request(collection={"labels": {"b": "2", "a": "1"}}, request_id="other"), caller_of())
    assert same and same.digest == made.digest, "neither the id nor the order of a map counts"
    changed = receipt_from(request(collection_id="x"), caller_of())
    assert changed and changed.digest != made.digest
    with pytest.raises(RequestIdReused, match="'k' came before with another body"):
        made.check(changed.digest)


def test_without_an_id_or_a_change_there_is_none() -> None:
    assert receipt_from(request(request_id=""), caller_of()) is None
    assert receipt_from(request(validate_only=True), caller_of()) is None


class Twin:
    """An equal request that is done while ours looks for its receipt, or a moment later."""

    def __init__(self, done_at: int) -> None:
        self.done_at = done_at
        self.looked = 0

    async def recall(self, receipt: Receipt) -> str | None:
        self.looked += 1
        return "the twin's" if self.looked > self.done_at else None


async def refused() -> str:
    raise AlreadyExists("taken, by the twin")


async def unavailable() -> str:
    raise DependencyUnavailable("the index does not answer")


async def done() -> str:
    return "ours"


async def test_whoever_is_refused_for_what_its_twin_did_is_answered_as_the_twin() -> None:
    assert await once(KEY, Twin(done_at=0).recall, refused) == "the twin's"
    assert await once(KEY, Twin(done_at=1).recall, refused) == "the twin's"
    with pytest.raises(AlreadyExists):
        await once(KEY, Twin(done_at=2).recall, refused)
    assert await once(KEY, Twin(done_at=1).recall, done) == "ours"


async def test_without_a_receipt_nobody_looks() -> None:
    twin = Twin(done_at=0)
    assert await once(None, twin.recall, done) == "ours"
    with pytest.raises(AlreadyExists):
        await once(None, twin.recall, refused)
    assert twin.looked == 0


async def test_what_cannot_be_done_now_is_not_taken_for_done() -> None:
    with pytest.raises(DependencyUnavailable):
        await once(KEY, Twin(done_at=1).recall, unavailable)
