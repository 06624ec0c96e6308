"""Collections that follow a directory: whole syncs over the real queue, the other services in memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.estimator import Estimator
from services.jobs.job import DirectoryImport, ItemState, Job, JobState, JobType
from services.jobs.reading import Reader
from services.jobs.syncing import SyncRequest, Syncs
from services.mesh.errors import CollectionDisabled, FailedPrecondition, JobRunning
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from tests.jobs_fakes import collection
from tests.jobs_rig import Rig, prose
from tests.jobs_store import Store, store_in

ANN = Caller(tenant="acme", subject="ann")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    """Bound to three files."""
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        rig = Rig(redis)
        bind(rig)
        rig.files.files = {f"{at}.txt": prose(40, f"w{at}x").encode() for at in range(3)}
        yield rig


def bind(rig: Rig, path: str = "docs", **fields: Any) -> None:
    rig.registry.collections["books"] = collection(source=DirectoryImport("", path), **fields)


def syncs(rig: Rig) -> Syncs:
    reader = Reader(rig.blobs, rig.files, rig.web, max_bytes=10_000)
    estimator = Estimator(rig.registry, rig.models, rig.blobs, rig.extractor, reader)
    return Syncs(rig.submissions, rig.files, estimator)


async def synced(rig: Rig, **fields: Any) -> Job:
    made = await syncs(rig).sync(SyncRequest("books", **fields), ANN)
    async with rig.working():
        return await rig.ended(made.id)


def documents(rig: Rig) -> list[str]:
    return sorted(id for _, id in rig.registry.documents)


async def test_new_and_changed_files_are_imported_and_documents_of_vanished_ones_deleted(rig: Rig) -> None:
    assert (await synced(rig)).progress.succeeded == 3
    embedded = len(rig.embedding.texts)
    rig.files.files["1.txt"] = b"Another text."
    rig.files.files["new.txt"] = b"A new text."
    del rig.files.files["0.txt"]
    job = await synced(rig)
    assert (job.assignment.type, job.state) == (JobType.SYNC, JobState.SUCCEEDED)
    assert (job.progress.succeeded, job.progress.skipped) == (2, 1)
    assert documents(rig) == ["1.txt", "2.txt", "new.txt"]
    assert rig.text_of("1.txt") == "Another text."
    assert len(rig.embedding.texts) == embedded + 2


async def test_documents_that_did_not_come_from_the_directory_stay(rig: Rig) -> None:
    await rig.done(await rig.put("Sent by somebody.", "sent"))
    await synced(rig)
    await synced(rig)
    assert documents(rig) == ["0.txt", "1.txt", "2.txt", "sent"]


async def test_a_directory_without_any_file_deletes_nothing_unless_that_is_meant(rig: Rig) -> None:
    await synced(rig)
    rig.files.files.clear()
    job = await synced(rig)
    assert (job.state, job.error and job.error.reason) == (JobState.FAILED, "SOURCE_EMPTY")
    assert documents(rig) == ["0.txt", "1.txt", "2.txt"]
    assert (await synced(rig, allow_empty=True)).state is JobState.SUCCEEDED
    assert documents(rig) == []
    assert (await synced(rig)).state is JobState.SUCCEEDED  # there is nothing left that it could delete


async def test_a_directory_that_is_gone_is_refused_and_one_that_goes_meanwhile_deletes_nothing(rig: Rig) -> None:
    await synced(rig)
    made = await syncs(rig).sync(SyncRequest("books"), ANN)
    rig.files.gone = True
    async with rig.working():
        job = await rig.ended(made.id)
    assert (job.state, job.error and job.error.reason) == (JobState.FAILED, "PATH_NOT_FOUND")
    assert documents(rig) == ["0.txt", "1.txt", "2.txt"]
    with pytest.raises(FailedPrecondition, match=r"collections/books: source.directory: docs: there is no such"):
        await syncs(rig).sync(SyncRequest("books"), ANN)


async def test_what_is_bound_to_no_directory_cannot_be_synced(rig: Rig) -> None:
    bind(rig, "docs/0.txt")
    with pytest.raises(FailedPrecondition, match="it is a file"):
        await syncs(rig).sync(SyncRequest("books"), ANN)
    rig.registry.collections["books"] = collection()
    with pytest.raises(FailedPrecondition, match="it is bound to none"):
        await syncs(rig).sync(SyncRequest("books"), ANN)
    bind(rig, disabled=True)
    with pytest.raises(CollectionDisabled):
        await syncs(rig).sync(SyncRequest("books"), ANN)


async def test_of_the_syncs_of_a_collection_one_has_not_ended(rig: Rig) -> None:
    answers = await asyncio.gather(
        *(syncs(rig).sync(SyncRequest("books"), ANN) for _ in range(10)), return_exceptions=True
    )
    (made,) = (answer for answer in answers if isinstance(answer, Job))
    refused = [answer for answer in answers if isinstance(answer, JobRunning)]
    assert (len(refused), {each.metadata["job"] for each in refused}) == (9, {f"jobs/{made.id}"})
    async with rig.working():
        await rig.ended(made.id)
    assert (await synced(rig)).state is JobState.SUCCEEDED


async def test_a_cancelled_sync_makes_room_and_is_not_resumed_beside_another(rig: Rig) -> None:
    first = await syncs(rig).sync(SyncRequest("books"), ANN)
    await rig.store.cancel("acme", first.id)
    second = await syncs(rig).sync(SyncRequest("books"), ANN)
    with pytest.raises(JobRunning, match=f"jobs/{first.id} cannot run before jobs/{second.id} has ended"):
        await rig.store.retry("acme", first.id)
    async with rig.working():
        await rig.ended(second.id)
        await rig.store.retry("acme", first.id)
        with pytest.raises(JobRunning):
            await syncs(rig).sync(SyncRequest("books"), ANN)
        assert [event.job.state async for event in rig.store.events("acme", first.id, 0)][-1] is JobState.SUCCEEDED


async def test_failed_items_of_two_syncs_are_not_replayed_beside_each_other(rig: Rig) -> None:
    rig.files.files = {"empty.txt": b""}
    jobs = [await synced(rig) for _ in range(2)]
    letters = [(job.id, 1) for job in jobs]
    with pytest.raises(JobRunning):
        await rig.store.replay("acme", letters, all_or_none=True)
    assert (await rig.store.replay("acme", letters, all_or_none=False)).jobs == (jobs[0].id,)


async def test_nothing_has_vanished_while_a_directory_cannot_be_entered(rig: Rig) -> None:
    await synced(rig)
    del rig.files.files["0.txt"]
    rig.files.barred = {"sub": "the directory cannot be entered"}
    job = await synced(rig)
    assert (job.state, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 1)
    [barred] = [item for item in await rig.items(job) if item.state is ItemState.FAILED]
    assert barred.error is not None
    assert "the directory cannot be entered" in barred.error.message
    assert documents(rig) == ["0.txt", "1.txt", "2.txt"]


async def test_an_estimate_of_a_sync_stores_nothing(rig: Rig) -> None:
    await synced(rig)
    rig.files.files["new.txt"] = b"A new text."
    job = await syncs(rig).sync(SyncRequest("books", validate_only=True), ANN)
    assert job.estimate is not None
    assert (job.id, job.estimate.documents, job.estimate.duplicates) == ("", 1, 3)


async def test_one_request_id_is_one_sync(rig: Rig) -> None:
    request = SyncRequest("books", receipt=Receipt("acme", "SyncCollection", "r1", "digest"))
    made = await asyncio.gather(*(syncs(rig).sync(request, ANN) for _ in range(10)))
    assert len({job.id for job in made}) == 1
