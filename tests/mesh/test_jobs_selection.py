"""Documents made again, and deleted by filter: whole jobs over the real queue, the other services in memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from services.jobs import expansion
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.estimator import Estimator
from services.jobs.job import Item, ItemState, Job, JobState, JobType, OnDuplicate
from services.jobs.listing import jobs_query
from services.jobs.reading import Reader
from services.jobs.ready import READY_TYPE, ReadyChunk, ReadyChunks
from services.jobs.selection import SelectionRequest, Selections
from services.mesh.errors import CollectionDisabled, InvalidArgument, InvalidFilter
from services.mesh.identity import Caller
from services.mesh.receipts import Receipt
from tests.jobs_fakes import collection
from tests.jobs_rig import Rig, killed_everywhere, prose, sha256
from tests.jobs_store import Store, store_in

ANN = Caller(tenant="acme", subject="ann")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


def selections(rig: Rig) -> Selections:
    reader = Reader(rig.blobs, rig.files, rig.web, max_bytes=10_000)
    return Selections(
        rig.submissions, rig.registry, rig.blobs, Estimator(rig.registry, rig.models, rig.blobs, rig.extractor, reader)
    )


async def imported(rig: Rig, count: int = 3, **fields: Any) -> None:
    """So many documents, "doc-0" and on, each of several chunks, with their number as metadata."""
    specs = [await rig.put(prose(120, f"w{at}x"), f"doc-{at}", metadata={"n": at}, **fields) for at in range(count)]
    assert (await rig.done(*specs)).state is JobState.SUCCEEDED


def chunking(rig: Rig, max_tokens: int) -> None:
    rig.registry.collections["books"] = collection(max_tokens=max_tokens)


async def done(rig: Rig, type: JobType, **fields: Any) -> Job:
    job_id = await rig.submit(type=type, **fields)
    async with rig.working():
        return await rig.ended(job_id)


async def by_document(rig: Rig, job: Job) -> dict[str, Item]:
    return {item.spec.document_id: item for item in await rig.items(job)}


# Made again


async def test_after_a_change_of_chunking_every_document_is_cut_the_new_way(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)
    await imported(rig, 5)
    before = {f"doc-{at}": len(rig.index.of(f"doc-{at}")) for at in range(5)}
    extracted = len(rig.extractor.extracted)
    chunking(rig, 60)
    job = await done(rig, JobType.REPROCESS)
    assert (job.state, job.progress.total, job.progress.succeeded) == (JobState.SUCCEEDED, 5, 5)
    assert job.index_revision == rig.index.writes
    for at in range(5):
        assert 0 < len(rig.index.of(f"doc-{at}")) < before[f"doc-{at}"]
        assert rig.text_of(f"doc-{at}").split() == prose(120, f"w{at}x").split()
        assert len({revision for revision, _, _ in rig.index.of(f"doc-{at}")}) == 1
    assert len(rig.extractor.extracted) == extracted  # the kept text serves


async def test_documents_that_are_as_the_collection_says_are_skipped_unless_all_is_wanted(rig: Rig) -> None:
    await imported(rig)
    embedded = len(rig.embedding.texts)
    job = await done(rig, JobType.REPROCESS)
    assert (job.progress.skipped, len(rig.embedding.texts)) == (3, embedded)
    job = await done(rig, JobType.REPROCESS, on_duplicate=OnDuplicate.REPLACE)
    assert (job.progress.succeeded, len(rig.embedding.texts)) == (3, 2 * embedded)


async def test_only_documents_that_match_the_filter_are_made_again(rig: Rig) -> None:
    await imported(rig)
    chunking(rig, 60)
    job = await done(rig, JobType.REPROCESS, filter="metadata.n >= 1")
    assert (job.progress.total, job.progress.succeeded) == (2, 2)
    assert len(rig.index.of("doc-0")) > len(rig.index.of("doc-1"))


@pytest.mark.parametrize("fields", [{}, {"title": "Given"}, {"mime_type": "text/markdown", "charset": ""}])
async def test_what_an_import_would_make_is_what_is_made_again(rig: Rig, fields: dict[str, Any]) -> None:
    spec = await rig.put("# Found\n\n" + prose(80), "notes", source_uri="notes.md", **fields)
    await rig.done(spec)
    chunking(rig, 60)
    assert (await done(rig, JobType.REPROCESS)).progress.succeeded == 1
    made = [(chunk.id, chunk.chunk) for _, chunk, _ in rig.index.of("notes")]
    assert (await rig.done(spec)).progress.skipped == 1
    await rig.done(spec, on_duplicate=OnDuplicate.REPLACE)
    assert [(chunk.id, chunk.chunk) for _, chunk, _ in rig.index.of("notes")] == made


async def test_a_document_is_searchable_all_the_while(rig: Rig) -> None:
    await imported(rig, 1)
    chunking(rig, 60)
    whole = set(prose(120, "w0x").split())
    seen = []

    def written() -> int:
        seen.append(set(rig.text_of("doc-0").split()))
        rig.index.writes += 1
        return rig.index.writes

    rig.index._written = written  # type: ignore[method-assign]
    assert (await done(rig, JobType.REPROCESS)).progress.succeeded == 1
    assert len(seen) >= 2
    assert all(words == whole for words in seen)


async def test_a_document_whose_original_is_gone_fails_by_name_and_stays_as_it_was(rig: Rig) -> None:
    await imported(rig, source_uri="books/one.txt")
    assert await rig.blobs.forget("acme", [sha256(prose(120, "w1x"))], datetime.max.replace(tzinfo=UTC)) == 1
    before = rig.index.of("doc-1")
    chunking(rig, 60)
    job = await done(rig, JobType.REPROCESS)
    assert (job.state, job.progress.succeeded, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 2, 1)
    assert job.error is not None
    assert (job.error.reason, job.error.message) == (
        "ORIGINAL_NOT_FOUND",
        "books/one.txt: its original is not stored (any more); import it again",
    )
    assert rig.index.of("doc-1") == before
    assert [record.fields.spec.document_id for record in rig.registry.records if record.failure] == ["doc-1"]


async def test_chunks_that_a_caller_has_cut_stay_and_the_item_says_so(rig: Rig) -> None:
    content = ReadyChunks([ReadyChunk("One."), ReadyChunk("Two.")]).packed()
    blob = await rig.blobs.put("acme", _whole(content))
    spec = await rig.put("x", "ready", content_hash=blob.content_hash, charset="", mime_type=READY_TYPE)
    await rig.done(spec)
    chunking(rig, 60)
    job = await done(rig, JobType.REPROCESS, on_duplicate=OnDuplicate.REPLACE)
    [item] = await rig.items(job)
    assert (item.state, item.error and item.error.reason) == (ItemState.SKIPPED, "READY_CHUNKS")
    assert [chunk.chunk.text for _, chunk, _ in rig.index.of("ready")] == ["One.", "Two."]


async def test_a_document_deleted_meanwhile_does_not_come_back(rig: Rig) -> None:
    await imported(rig, 1)
    chunking(rig, 60)
    real_upsert = rig.index.upsert

    async def upsert(*args: Any) -> int:
        """The document is deleted between the look at it and the write of its chunks."""
        await rig.registry.delete_documents("books", ["doc-0"])
        rig.index.chunks.clear()
        return await real_upsert(*args)

    rig.index.upsert = upsert  # type: ignore[method-assign,assignment]
    job = await done(rig, JobType.REPROCESS)
    [item] = await rig.items(job)
    assert (job.state, item.state) == (JobState.SUCCEEDED, ItemState.SKIPPED)
    assert item.error is not None
    assert "deleted meanwhile" in item.error.message
    assert (rig.index.of("doc-0"), rig.registry.documents) == ([], {})


async def test_a_document_whose_first_import_has_not_ended_is_left_to_it(rig: Rig) -> None:
    await imported(rig, 1)
    known = rig.registry.documents["books", "doc-0"]
    rig.registry.documents["books", "doc-0"] = replace(known, active=False, pending=True)
    [item] = await rig.items(await done(rig, JobType.REPROCESS, on_duplicate=OnDuplicate.REPLACE))
    assert item.state is ItemState.SKIPPED
    assert item.error is not None
    assert "first import has not ended" in item.error.message


async def test_a_kill_between_any_two_steps_of_making_again_loses_and_doubles_nothing(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        await imported(rig, 1)
        chunking(rig, 60)
        return await rig.submit(type=JobType.REPROCESS)

    async def check(rig: Rig, job: Job) -> None:
        assert (job.state, job.progress.succeeded) == (JobState.SUCCEEDED, 1)
        assert rig.text_of("doc-0").split() == prose(120, "w0x").split()
        assert len({revision for revision, _, _ in rig.index.of("doc-0")}) == 1

    await killed_everywhere(server, prepare, check)


async def test_an_estimate_tells_what_would_be_made_again_and_stores_nothing(rig: Rig) -> None:
    await imported(rig)
    job = await selections(rig).reprocess(SelectionRequest("books", validate_only=True), ANN)
    assert job.estimate is not None
    assert (job.estimate.documents, job.estimate.duplicates) == (0, 3)
    chunking(rig, 60)
    job = await selections(rig).reprocess(SelectionRequest("books", "metadata.n > 0", validate_only=True), ANN)
    assert job.estimate is not None
    assert (job.id, job.estimate.documents, job.estimate.duplicates) == ("", 2, 0)
    made = await done(rig, JobType.REPROCESS, filter="metadata.n > 0")
    assert made.progress.chunks == job.estimate.chunks


# Deleted


async def test_a_purge_deletes_what_matches_and_nothing_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)
    await imported(rig, 6)
    job = await done(rig, JobType.PURGE, filter="metadata.n >= 1")
    assert (job.state, job.progress.total, job.progress.succeeded) == (JobState.SUCCEEDED, 5, 5)
    assert [id for _, id in rig.registry.documents] == ["doc-0"]
    assert job.index_revision == rig.index.writes
    log = await RedisEventLog(rig.redis).read("acme", 0, 1000)
    told = [event.topic for event in log if event.assignment and event.assignment.job_id == job.id]
    assert not [topic for topic in told if topic.startswith("document.")], "what is deleted is not indexed"


async def test_a_document_that_does_not_match_any_more_when_its_turn_comes_stays(rig: Rig) -> None:
    await imported(rig, 2)
    listed = rig.registry.select

    async def select(*args: Any) -> Any:
        """Once it is listed, a document changes."""
        found = await listed(*args)
        known = rig.registry.documents["books", "doc-1"]
        rig.registry.documents["books", "doc-1"] = replace(known, metadata={"n": 99})
        return found

    rig.registry.select = select  # type: ignore[method-assign,assignment]
    job = await done(rig, JobType.PURGE, filter="metadata.n < 10")
    items = await by_document(rig, job)
    assert (items["doc-0"].state, items["doc-1"].state) == (ItemState.SUCCEEDED, ItemState.SKIPPED)
    assert items["doc-1"].error is not None
    assert "does not match" in items["doc-1"].error.message
    assert [id for _, id in rig.registry.documents] == ["doc-1"]


async def test_a_kill_between_any_two_steps_of_a_purge_deletes_all_the_same(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        await imported(rig, 2)
        return await rig.submit(type=JobType.PURGE, filter="metadata.n < 1")

    async def check(rig: Rig, job: Job) -> None:
        assert (job.state, job.progress.succeeded) == (JobState.SUCCEEDED, 1)
        assert [id for _, id in rig.registry.documents] == ["doc-1"]

    await killed_everywhere(server, prepare, check)


async def test_a_purge_waits_for_the_import_that_is_at_work_on_its_document(rig: Rig) -> None:
    await imported(rig, 1)
    rig.embedding.gate, rig.embedding.entered = asyncio.Event(), asyncio.Event()
    importing = await rig.submit(await rig.put(prose(60, "new"), "doc-0"))
    async with rig.working():
        await rig.embedding.entered.wait()
        purging = await rig.submit(type=JobType.PURGE)
        async for event in rig.store.events("acme", purging, 0):
            if event.job.progress.total:
                break
        rig.embedding.gate.set()
        assert (await rig.ended(importing)).state is JobState.SUCCEEDED
        assert (await rig.ended(purging)).progress.succeeded == 1
    assert rig.registry.documents == {}


async def test_without_force_a_purge_only_counts(rig: Rig) -> None:
    await imported(rig)
    job = await selections(rig).purge(SelectionRequest("books", "metadata.n < 2"), ANN)
    assert job.estimate is not None
    assert (job.id, job.estimate.documents, job.estimate.sample) == ("", 2, ("doc-0", "doc-1"))
    query = jobs_query(filter="type = PURGE", order_by="", page_size=0, page_token="", page=0)
    assert (await rig.store.list_jobs("acme", query)).items == ()
    assert len(rig.registry.documents) == 3


async def test_all_documents_are_meant_by_a_star_only(rig: Rig) -> None:
    await imported(rig)
    with pytest.raises(InvalidArgument, match=r"filter: is blank"):
        await selections(rig).purge(SelectionRequest("books", "  ", force=True), ANN)
    made = await selections(rig).purge(SelectionRequest("books", "*", force=True), ANN)
    async with rig.working():
        job = await rig.ended(made.id)
    assert (job.assignment.type, job.progress.succeeded) == (JobType.PURGE, 3)
    query = jobs_query(filter="type = PURGE", order_by="", page_size=0, page_token="", page=0)
    assert [each.id for each in (await rig.store.list_jobs("acme", query)).items] == [made.id]


async def test_a_cancelled_purge_leaves_the_rest_and_a_retry_goes_on(rig: Rig) -> None:
    await imported(rig, 4)
    job_id = await rig.submit(type=JobType.PURGE)
    deleted = rig.registry.delete_documents

    async def delete_documents(*args: Any, **fields: Any) -> int:
        await rig.store.cancel("acme", job_id)
        return await deleted(*args, **fields)

    rig.registry.delete_documents = delete_documents  # type: ignore[method-assign]
    rig.slots = 1
    async with rig.working():
        cancelled = await rig.ended(job_id)
        assert (cancelled.state, cancelled.progress.succeeded) == (JobState.CANCELLED, 1)
        assert len(rig.registry.documents) == 3
        rig.registry.delete_documents = deleted  # type: ignore[method-assign]
        again = await rig.store.retry("acme", job_id)
        async for event in rig.store.events("acme", job_id, 0):
            if event.job.attempt == again.attempt and event.job.state.ended:
                assert (event.job.state, event.job.progress.succeeded) == (JobState.SUCCEEDED, 4)
    assert rig.registry.documents == {}


@pytest.mark.parametrize("ask", [Selections.reprocess, Selections.purge])
async def test_what_cannot_be_done_is_refused_before_a_job_is_made(rig: Rig, ask: Any) -> None:
    with pytest.raises(InvalidFilter):
        await ask(selections(rig), SelectionRequest("books", "colour = 1", force=True), ANN)
    rig.registry.collections["books"] = collection(disabled=True)
    with pytest.raises(CollectionDisabled):
        await ask(selections(rig), SelectionRequest("books", "*", force=True), ANN)


@pytest.mark.parametrize("ask", [Selections.reprocess, Selections.purge])
async def test_one_request_id_is_one_job(rig: Rig, ask: Any) -> None:
    receipt = Receipt("acme", ask.__name__, "r1", "digest")
    request = SelectionRequest("books", "title = x", force=True, receipt=receipt)
    made = await asyncio.gather(*(ask(selections(rig), request, ANN) for _ in range(10)))
    assert len({job.id for job in made}) == 1


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content
