"""A tenant keeps no more than it may, and whose limits cannot be asked for is held to the last ones known."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from services.collections.adapters.memory import MemoryStore
from services.collections.collection_deletions import CollectionDeletions
from services.collections.document_changes import NewDocument, NewFile
from services.collections.document_deletions import DocumentDeletions
from services.collections.documents import Documents
from services.collections.registry import Registry
from services.mesh.errors import QuotaExceeded
from services.mesh.identity import Caller
from services.mesh.quotas import Amounts, check_quota
from tests.collections_records import (
    PLENTY,
    FakeIndex,
    FakeJobs,
    FakeLimits,
    FakeModels,
    FakePlaces,
    collection_deletions,
    document,
    document_deletions,
    quotas,
    receipt,
)

ANN = Caller(tenant="acme", subject="ann", scopes=frozenset({"collections.write", "documents.write"}))
EVE = Caller(tenant="globex", subject="eve", scopes=ANN.scopes)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def limits() -> FakeLimits:
    return FakeLimits()


@pytest.fixture
def registry(store: MemoryStore, limits: FakeLimits) -> Registry:
    return Registry(store, FakeIndex(), FakeModels(), FakePlaces(), quotas(store, limits, fresh_s=0))


@pytest.fixture
def jobs() -> FakeJobs:
    return FakeJobs()


@pytest.fixture
def documents(store: MemoryStore, jobs: FakeJobs, limits: FakeLimits) -> Documents:
    return Documents(store, FakeIndex(), jobs, quotas(store, limits, fresh_s=0), max_upload_bytes=10**6)


@pytest.fixture
def deletions(store: MemoryStore, jobs: FakeJobs, limits: FakeLimits) -> DocumentDeletions:
    return document_deletions(store, FakeIndex(), jobs, quotas(store, limits, fresh_s=0))


@pytest.fixture
def whole(store: MemoryStore, registry: Registry, limits: FakeLimits) -> CollectionDeletions:
    return collection_deletions(store, FakeIndex(), registry, quotas(store, limits, fresh_s=0))


async def parts(*sizes: int) -> AsyncIterator[bytes]:
    for size in sizes:
        yield b"x" * size


def test_every_limit_in_the_way_is_named_with_what_is_kept() -> None:
    with pytest.raises(QuotaExceeded) as refused:
        check_quota(
            "acme",
            limits=Amounts(9, 3, 9, 100),
            usage=Amounts(1, 3, 1, 90),
            more=Amounts(documents=1, storage_bytes=20),
        )
    assert refused.value.message == (
        "documents: 3 of 3 are used, 1 more do not fit; storage_bytes: 90 of 100 are used, 20 more do not fit"
    )
    assert refused.value.metadata == {"subject": "tenants/acme", "quota": "documents", "limit": "3", "usage": "3"}
    assert refused.value.retry_after_s is None


def test_what_is_over_its_limit_may_stay_and_shrink() -> None:
    check_quota("acme", limits=Amounts(), usage=Amounts(5, 5, 5, 5), more=Amounts(0, -1, 0, 0))


async def test_a_collection_beyond_the_limit_is_refused_and_one_less_makes_room(
    registry: Registry, limits: FakeLimits, whole: CollectionDeletions
) -> None:
    limits.amounts = replace(PLENTY, collections=1)
    await registry.create("one", {}, ANN)
    for validate_only in (True, False):
        with pytest.raises(QuotaExceeded, match="collections: 1 of 1 are used"):
            await registry.create("two", {}, ANN, validate_only=validate_only)
    await registry.create("one", {}, EVE)
    await whole.delete("one", ANN)
    await registry.create("two", {}, ANN)


async def test_documents_count_from_when_they_are_recorded_until_they_are_deleted(
    registry: Registry, documents: Documents, limits: FakeLimits, store: MemoryStore, deletions: DocumentDeletions
) -> None:
    limits.amounts = replace(PLENTY, documents=1)
    docs = await registry.create("docs", {}, ANN)
    await registry.create("more", {}, ANN)
    await documents.create("docs", NewDocument("a"), "text", ANN)
    assert await store.usage("acme") == Amounts(2, 1, 0, 4)
    for validate_only in (True, False):
        with pytest.raises(QuotaExceeded, match="documents: 1 of 1 are used"):
            await documents.create("more", NewDocument("b"), "text", ANN, validate_only=validate_only)
    await documents.record(document("a", of=docs, state="ACTIVE", chunk_count=3, size_bytes=4), ANN)
    with pytest.raises(QuotaExceeded):
        await documents.record(document("b", of=docs, state="ACTIVE", chunk_count=3), ANN)
    assert await store.usage("acme") == Amounts(2, 1, 3, 4)
    await deletions.delete("collections/docs/documents/a", ANN)
    assert await store.usage("acme") == Amounts(2, 0, 0, 0)


async def test_a_document_that_grows_is_held_to_the_quota_and_keeps_what_it_was(
    registry: Registry, documents: Documents, limits: FakeLimits
) -> None:
    docs = await registry.create("docs", {}, ANN)
    before = await documents.record(document("a", of=docs, state="ACTIVE", chunk_count=3, content_hash="1"), ANN)
    limits.amounts = replace(PLENTY, chunks=3)
    with pytest.raises(QuotaExceeded, match="chunks: 3 of 3 are used, 1 more"):
        await documents.record(document("a", of=docs, state="ACTIVE", chunk_count=4, content_hash="2"), ANN)
    assert await documents.get("collections/docs/documents/a", ANN) == before
    await documents.record(document("a", of=docs, state="ACTIVE", chunk_count=2, content_hash="3"), ANN)


async def test_an_upload_is_refused_at_the_byte_that_is_too_many(
    registry: Registry, documents: Documents, limits: FakeLimits, jobs: FakeJobs
) -> None:
    await registry.create("docs", {}, ANN)
    limits.amounts = replace(PLENTY, storage_bytes=250)
    with pytest.raises(QuotaExceeded, match="storage_bytes: 0 of 250 are used, 300 more"):
        await documents.upload(NewFile("docs", "a"), parts(100, 100, 100, 100), ANN)
    assert (jobs.parts_seen, jobs.uploads) == ([100, 100], [])
    await documents.upload(NewFile("docs", "a"), parts(100, 150), ANN)


async def test_what_came_of_an_upload_before_counts_when_it_goes_on(
    registry: Registry, documents: Documents, limits: FakeLimits
) -> None:
    await registry.create("docs", {}, ANN)
    limits.amounts = replace(PLENTY, storage_bytes=250)
    going_on = NewFile("docs", "a", sha256="0" * 64, upload="r1", offset=200)
    with pytest.raises(QuotaExceeded, match="storage_bytes: 0 of 250 are used, 300 more"):
        await documents.upload(going_on, parts(100), ANN, receipt=receipt())


async def test_an_upload_that_was_taken_is_taken_again_under_its_request_id(
    registry: Registry, documents: Documents, limits: FakeLimits
) -> None:
    await registry.create("docs", {}, ANN)
    limits.amounts = replace(PLENTY, documents=1, storage_bytes=100)
    first = await documents.upload(NewFile("docs", "a"), parts(100), ANN, receipt=receipt())
    assert await documents.upload(NewFile("docs", "a"), parts(100), ANN, receipt=receipt()) == first
    with pytest.raises(QuotaExceeded):
        await documents.upload(NewFile("docs", "b"), parts(100), ANN, receipt=receipt("r2"))


async def test_an_upload_that_cannot_fit_is_refused_at_its_first_byte(
    registry: Registry, documents: Documents, limits: FakeLimits, jobs: FakeJobs
) -> None:
    await registry.create("docs", {}, ANN)
    limits.amounts = replace(PLENTY, documents=0)
    with pytest.raises(QuotaExceeded, match="documents"):
        await documents.upload(NewFile("docs", "a"), parts(100), ANN)
    assert jobs.parts_seen == []


async def test_limits_are_asked_for_once_in_a_while_and_again_before_a_refusal(store: MemoryStore) -> None:
    now, limits = 0.0, FakeLimits(Amounts(collections=1))
    checked = quotas(store, limits, fresh_s=10, clock=lambda: now)
    for _ in range(3):
        await checked.check("acme", Amounts(collections=1))
    assert limits.asked == 1
    limits.amounts = Amounts(collections=5)
    now = 2.0
    await checked.check("acme", Amounts(collections=5))
    assert limits.asked == 2
    for _ in range(3):
        with pytest.raises(QuotaExceeded):
            await checked.check("acme", Amounts(collections=6))
    assert limits.asked == 5
    now = 12.5
    await checked.check("acme", Amounts(collections=1))
    assert limits.asked == 6


async def test_the_last_limits_known_hold_while_their_owner_is_down(store: MemoryStore) -> None:
    now, limits = 0.0, FakeLimits(Amounts(collections=2))
    checked = quotas(store, limits, defaults=Amounts(collections=100), fresh_s=10, clock=lambda: now)
    await checked.check("acme", Amounts(collections=2))
    limits.down, now = True, 60.0
    with pytest.raises(QuotaExceeded):
        await checked.check("acme", Amounts(collections=3))
    await checked.check("globex", Amounts(collections=100))
    with pytest.raises(QuotaExceeded):
        await checked.check("globex", Amounts(collections=101))


async def test_one_question_serves_all_who_wait_and_outlasts_the_one_who_asked(store: MemoryStore) -> None:
    answered = asyncio.Event()

    class Slow(FakeLimits):
        async def of_caller(self) -> Amounts:
            self.asked += 1
            await answered.wait()
            return Amounts(collections=1)

    limits = Slow()
    checked = quotas(store, limits, defaults=Amounts(collections=100))
    impatient = asyncio.create_task(checked.check("acme", Amounts(collections=50)))
    patient = asyncio.create_task(checked.check("acme", Amounts(collections=50)))
    while not limits.asked:
        await asyncio.sleep(0)
    impatient.cancel()
    answered.set()
    with pytest.raises(QuotaExceeded):
        await patient
    assert limits.asked == 1
