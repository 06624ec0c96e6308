"""Whole imports over the real queue, with the other services in memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from services.jobs import expansion, pipeline
from services.jobs.adapters.redis import Redis
from services.jobs.job import ItemState, JobState, OnDuplicate
from services.mesh.errors import DependencyUnavailable, TextTooLong
from services.mesh.quotas import Amounts
from tests.jobs_fakes import Killed, Trap, collection
from tests.jobs_rig import Rig, killed_everywhere, prose, until
from tests.jobs_store import Store, store_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def redis(server: Store) -> AsyncIterator[Redis]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield redis


@pytest.fixture
def rig(redis: Redis) -> Rig:
    return Rig(redis)


async def test_a_document_is_cut_embedded_indexed_and_recorded(rig: Rig) -> None:
    text = prose(120)
    job = await rig.done(await rig.put(text, title="Words", metadata={"n": 1}, principals=("user:ann",)))
    chunks = rig.index.of("a.txt")
    assert (job.state, job.progress.succeeded, job.progress.chunks) == (JobState.SUCCEEDED, 1, len(chunks))
    assert len(chunks) > 2
    assert rig.text_of("a.txt").split() == text.split()
    assert [chunk.chunk.ordinal for _, chunk, _ in chunks] == list(range(len(chunks)))
    assert all(chunk.vector == len(chunk.chunk.embed_text).to_bytes(4, "little") * 4 for _, chunk, _ in chunks)
    [record] = rig.registry.records
    assert (record.chunk_count, record.fields.title, record.fields.revision) == (len(chunks), "Words", 1)
    assert (record.fields.mime_type, record.size_bytes) == ("text/plain", len(text))
    assert job.index_revision == rig.index.writes
    [item] = await rig.items(job)
    assert set(item.timings_ms) == {"read", "extract", "chunk", "embed", "index", "record"}


async def test_the_same_content_again_is_skipped_and_nothing_is_embedded(rig: Rig) -> None:
    spec = await rig.put(prose(60))
    await rig.done(spec)
    embedded, writes = list(rig.embedding.texts), rig.index.writes
    job = await rig.done(spec)
    assert (job.state, job.progress.skipped, job.progress.succeeded) == (JobState.SUCCEEDED, 1, 0)
    assert (rig.embedding.texts, rig.index.writes, len(rig.registry.records)) == (embedded, writes, 1)


async def test_new_fields_of_the_same_content_are_written_without_embedding(rig: Rig) -> None:
    await rig.done(await rig.put(prose(60), title="Old"))
    embedded = list(rig.embedding.texts)
    job = await rig.done(await rig.put(prose(60), title="New", metadata={"n": 2}))
    assert job.progress.succeeded == 1
    assert rig.embedding.texts == embedded
    assert {fields.title for _, _, fields in rig.index.of("a.txt")} == {"New"}
    assert rig.registry.records[-1].fields.revision == 1
    assert rig.registry.records[-1].chunk_count == rig.registry.records[0].chunk_count


async def test_changed_content_replaces_all_of_the_older_revision(rig: Rig) -> None:
    await rig.done(await rig.put(prose(120)))
    job = await rig.done(await rig.put(prose(60, "other")))
    assert rig.text_of("a.txt").split() == prose(60, "other").split()
    assert len({revision for revision, _, _ in rig.index.of("a.txt")}) == 1
    assert job.progress.chunks == len(rig.index.of("a.txt"))
    assert rig.registry.records[-1].fields.revision == 2


async def test_replace_does_everything_again(rig: Rig) -> None:
    spec = await rig.put(prose(60))
    await rig.done(spec)
    count = len(rig.embedding.texts)
    job = await rig.done(spec, on_duplicate=OnDuplicate.REPLACE)
    assert (job.progress.succeeded, len(rig.embedding.texts)) == (1, 2 * count)
    assert rig.registry.records[-1].fields.revision == 1


async def test_another_chunking_is_another_revision(rig: Rig) -> None:
    spec = await rig.put(prose(120))
    await rig.done(spec)
    before = len(rig.index.of("a.txt"))
    rig.registry.collections["books"] = collection(max_tokens=60)
    job = await rig.done(spec)
    assert job.progress.succeeded == 1
    assert len(rig.index.of("a.txt")) < before
    assert rig.text_of("a.txt").split() == prose(120).split()


async def test_one_bad_document_fails_alone_and_says_why(rig: Rig) -> None:
    good = [await rig.put(prose(40, f"w{at}"), f"good-{at}.txt") for at in range(4)]
    empty = await rig.put("", "empty.txt")
    job = await rig.done(*good[:2], empty, *good[2:])
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert (job.progress.succeeded, job.progress.failed) == (4, 1)
    assert job.error is not None
    assert "empty.txt" in job.error.message
    failed = (await rig.items(job))[2]
    assert (failed.state, failed.attempts) == (ItemState.FAILED, 1)
    assert failed.error is not None
    assert failed.error.reason == "EMPTY_DOCUMENT"
    assert [record.failure.reason for record in rig.registry.records if record.failure] == ["EMPTY_DOCUMENT"]


async def test_large_documents_take_turns_and_small_ones_pass_them(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_LARGE", 500)
    rig.slots = 4
    rig.embedding.gate = asyncio.Event()
    large = [await rig.put(prose(160, f"w{at}"), f"large-{at}.txt") for at in range(3)]
    job_id = await rig.submit(*large, await rig.put("Owls hunt.", "small.txt"))
    async with rig.working():
        await until(lambda: "small.txt" in rig.extractor.extracted and len(rig.extractor.extracted) > 1)
        assert sorted(name.partition("-")[0] for name in rig.extractor.extracted) == ["large", "small.txt"]
        rig.embedding.gate.set()
        job = await rig.ended(job_id)
    assert job.progress.succeeded == 4
    assert sum("wait" in item.timings_ms for item in await rig.items(job)) == 3


async def test_a_failed_reimport_leaves_the_older_revision_searchable(rig: Rig) -> None:
    await rig.done(await rig.put(prose(60)))
    rig.embedding.fails = lambda texts: TextTooLong("a text is too long")
    job = await rig.done(await rig.put(prose(60, "other")))
    assert job.state is JobState.FAILED
    assert rig.text_of("a.txt").split() == prose(60).split()


async def test_what_is_down_for_a_while_costs_attempts_not_documents(rig: Rig) -> None:
    failures = iter([DependencyUnavailable("embedding is unavailable")] * 2)
    rig.embedding.fails = lambda texts: next(failures, None)
    rig.slots = 1
    job = await rig.done(await rig.put(prose(8)))
    assert job.state is JobState.SUCCEEDED
    [item] = await rig.items(job)
    assert (item.attempts, item.error) == (3, None)


async def test_waiting_for_what_is_down_costs_no_attempt(rig: Rig) -> None:
    failures = iter([DependencyUnavailable("embedding is unavailable")] * 3)
    rig.embedding.fails = lambda texts: next(failures, None)
    rig.patience_s = 20
    job = await rig.done(await rig.put(prose(60)))
    [item] = await rig.items(job)
    assert (job.state, item.attempts) == (JobState.SUCCEEDED, 1)


async def test_a_document_that_fails_every_time_is_given_up(rig: Rig) -> None:
    rig.embedding.fails = lambda texts: RuntimeError("a defect")
    job = await rig.done(await rig.put(prose(8)))
    [item] = await rig.items(job)
    assert (job.state, item.attempts) == (JobState.FAILED, rig.attempts)
    assert item.error is not None
    assert (item.error.reason, item.error.message) == ("INTERNAL", "internal error")


async def test_a_document_that_kills_its_worker_every_time_is_given_up(rig: Rig) -> None:
    rig.embedding.fails = lambda texts: next(deaths) if any("poison" in text for text in texts) else None

    def kill() -> Iterator[Exception]:
        raise Killed
        yield

    deaths = kill()
    job_id = await rig.submit(await rig.put("poison", "bad.txt"), await rig.put(prose(8), "good.txt"))
    died = 0
    while not (await rig.store.get("acme", job_id)).state.ended:
        deaths = kill()
        worker = asyncio.create_task(rig.worker().run())
        ended = asyncio.create_task(rig.ended(job_id))
        await asyncio.wait({worker, ended}, return_when=asyncio.FIRST_COMPLETED)
        died += worker.done()
        for task in (worker, ended):
            task.cancel()
        await asyncio.gather(worker, ended, return_exceptions=True)
    job = await rig.store.get("acme", job_id)
    assert died == rig.attempts
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    bad, good = await rig.items(job)
    assert bad.error is not None
    assert (bad.error.reason, good.state) == ("ATTEMPTS_EXHAUSTED", ItemState.SUCCEEDED)


async def test_a_model_exchanged_in_between_is_noticed(rig: Rig) -> None:
    rig.embedding.model_revision = "r2"
    real_forget = rig.models.forget

    def forget(name: str) -> None:
        real_forget(name)
        rig.models.revision = "r2"

    rig.models.forget = forget  # type: ignore[method-assign]
    job = await rig.done(await rig.put(prose(8)))
    assert job.state is JobState.SUCCEEDED
    assert rig.models.forgotten


async def test_vectors_of_the_wrong_length_never_reach_the_index(rig: Rig) -> None:
    rig.embedding.dimension = 3
    job = await rig.done(await rig.put(prose(8)))
    assert job.error is not None
    assert "3 dimensions" in job.error.message
    assert rig.index.chunks == {}


async def test_a_collection_made_anew_is_another_one(rig: Rig) -> None:
    rig.registry.collections["books"] = collection(uid="uid-2")
    job = await rig.done(await rig.put(prose(8)))
    assert job.error is not None
    assert (job.state, job.error.reason) == (JobState.FAILED, "COLLECTION_NOT_FOUND")
    assert rig.index.chunks == {}


async def test_two_jobs_of_one_document_take_turns(rig: Rig) -> None:
    rig.embedding.gate = asyncio.Event()
    first = await rig.submit(await rig.put(prose(60, "first")))
    async with rig.working():
        await rig.embedding.entered.wait()
        second = await rig.submit(await rig.put(prose(60, "second")))
        await until(lambda: _deferred(rig, second))
        rig.embedding.gate.set()
        assert (await rig.ended(first)).state is JobState.SUCCEEDED
        assert (await rig.ended(second)).state is JobState.SUCCEEDED
    assert rig.text_of("a.txt").split() == prose(60, "second").split()
    [item] = await rig.items(second)
    assert item.attempts == 1


async def _deferred(rig: Rig, job_id: str) -> bool:
    [item] = await rig.items(job_id)
    job = await rig.store.get("acme", job_id)
    return job.state is JobState.RUNNING and item.state is ItemState.QUEUED


async def test_a_directory_is_imported_file_by_file(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)
    rig.files.files = {f"{at}.md": prose(16, f"f{at}").encode() for at in range(5)}
    rig.files.files["sub/6.bin"] = b"\x00\xff"
    rig.files.refused["link.md"] = "it is a symbolic link"
    job_id = await rig.submit_directory()
    async with rig.working():
        job = await rig.ended(job_id)
    assert (job.progress.total, job.progress.succeeded) == (7, 5)
    assert (job.progress.skipped, job.progress.failed) == (1, 1)
    by_state = {item.spec.source_uri: (item.state, item.error and item.error.message) for item in await rig.items(job)}
    assert by_state["docs/link.md"] == (ItemState.FAILED, "docs/link.md: it is a symbolic link")
    assert by_state["docs/sub/6.bin"][0] is ItemState.SKIPPED
    assert await rig.blobs.keep("acme", rig.registry.documents["books", "1.md"].content_hash)
    assert {record.source_key for record in rig.registry.records} == {"directory:docs"}


async def test_a_file_asked_for_by_a_glob_that_cannot_be_read_fails(rig: Rig) -> None:
    rig.files.files = {"a.bin": b"\x00\xff"}
    job_id = await rig.submit_directory(include_globs=("*.bin",))
    async with rig.working():
        job = await rig.ended(job_id)
    assert job.state is JobState.FAILED


async def test_only_the_changed_file_of_a_directory_is_embedded_again(rig: Rig) -> None:
    rig.files.files = {f"{at}.md": prose(16, f"f{at}").encode() for at in range(5)}
    async with rig.working():
        await rig.ended(await rig.submit_directory())
        rig.files.files["3.md"] = prose(16, "new").encode()
        rig.embedding.texts.clear()
        job = await rig.ended(await rig.submit_directory())
    assert (job.progress.succeeded, job.progress.skipped) == (1, 4)
    assert all("new" in text for text in rig.embedding.texts)


async def test_a_full_import_deletes_what_vanished_and_nothing_else(rig: Rig) -> None:
    rig.files.files = {f"{at}.md": prose(16, f"f{at}").encode() for at in range(4)}
    async with rig.working():
        await rig.ended(await rig.submit_directory())
        await rig.ended(await rig.submit(await rig.put(prose(8), "inline.txt")))
        del rig.files.files["2.md"]
        incremental = await rig.ended(await rig.submit_directory())
        assert rig.registry.deleted == []
        job = await rig.ended(await rig.submit_directory(full=True))
    assert (incremental.progress.total, job.progress.total, job.state) == (3, 3, JobState.SUCCEEDED)
    assert rig.registry.deleted == ["2.md"]


async def test_a_directory_that_is_gone_fails_the_job_and_deletes_nothing(rig: Rig) -> None:
    rig.files.files = {"a.md": prose(8).encode()}
    async with rig.working():
        await rig.ended(await rig.submit_directory())
        rig.files.gone = True
        job = await rig.ended(await rig.submit_directory(full=True))
    assert (job.state, rig.registry.deleted) == (JobState.FAILED, [])
    assert job.error is not None
    assert job.error.reason == "PATH_NOT_FOUND"


async def test_a_cancel_stops_work_in_flight_within_a_heartbeat(rig: Rig) -> None:
    rig.embedding.gate = asyncio.Event()
    job_id = await rig.submit(*[await rig.put(prose(8, f"w{at}"), f"{at}.txt") for at in range(6)])
    async with rig.working():
        await rig.embedding.entered.wait()
        await rig.store.cancel("acme", job_id)
        job = await rig.ended(job_id)
    assert (job.state, rig.index.chunks) == (JobState.CANCELLED, {})
    assert {item.state for item in await rig.items(job)} == {ItemState.CANCELLED}


async def test_a_worker_told_to_stop_gives_its_work_back_uncounted(rig: Rig) -> None:
    rig.embedding.gate = asyncio.Event()
    job_id = await rig.submit(await rig.put(prose(8)))
    async with rig.working():
        await rig.embedding.entered.wait()
    [item] = await rig.items(job_id)
    assert (item.state, item.attempts) == (ItemState.QUEUED, 0)
    rig.embedding.gate.set()
    async with rig.working("two"):
        assert (await rig.ended(job_id)).state is JobState.SUCCEEDED


async def test_a_worker_that_slept_past_its_lease_writes_nothing(rig: Rig) -> None:
    rig.lease_s = 0.2
    rig.embedding.gate = asyncio.Event()
    job_id = await rig.submit(await rig.put(prose(60)))
    async with rig.working("sleeper", heartbeat_s=3600, slots=1):
        await rig.embedding.entered.wait()
        async with rig.working("other", slots=1):
            await until(lambda: _attempts(rig, job_id, 2))
            rig.embedding.gate.set()
            job = await rig.ended(job_id)
    assert (job.state, job.progress.succeeded) == (JobState.SUCCEEDED, 1)
    assert len(rig.registry.records) == 1
    assert rig.index.writes == len(rig.index.of("a.txt")) // 256 + 2


async def _attempts(rig: Rig, job_id: str, count: int) -> bool:
    return (await rig.items(job_id))[0].attempts >= count


async def test_a_job_ten_times_longer_than_the_lease_runs_once(rig: Rig) -> None:
    rig.lease_s = 0.2
    rig.embedding.gate = asyncio.Event()
    job_id = await rig.submit(await rig.put(prose(8)))
    async with rig.working("one"), rig.working("two"):
        await rig.embedding.entered.wait()
        asyncio.get_running_loop().call_later(10 * rig.lease_s, rig.embedding.gate.set)
        job = await rig.ended(job_id)
    [item] = await rig.items(job)
    assert (item.attempts, len(rig.embedding.calls)) == (1, 1)


async def test_the_death_of_the_store_only_delays(tmp_path_factory: pytest.TempPathFactory) -> None:
    with store_in(tmp_path_factory.mktemp("s")) as server:
        async with Redis.open(server.url) as redis:
            rig = Rig(redis)
            rig.embedding.gate = asyncio.Event()
            job_id = await rig.submit(*[await rig.put(prose(8, f"w{at}"), f"{at}.txt") for at in range(6)])
            async with rig.working():
                await rig.embedding.entered.wait()
                server.kill()
                rig.embedding.gate.set()
                server.start()
                job = await rig.ended(job_id)
            assert (job.state, job.progress.succeeded) == (JobState.SUCCEEDED, 6)
            assert [item.attempts for item in await rig.items(job)] == [1] * 6


async def test_a_kill_between_any_two_steps_of_an_import_loses_and_doubles_nothing(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        await rig.done(await rig.put(prose(100, "old"), "changed.txt"))
        rig.registry.records.clear()
        return await rig.submit(
            await rig.put(prose(60, "new"), "changed.txt"), await rig.put(prose(40, "fresh"), "fresh.txt")
        )

    async def check(rig: Rig, job) -> None:  # type: ignore[no-untyped-def]
        assert rig.text_of("changed.txt").split() == prose(60, "new").split()
        assert rig.text_of("fresh.txt").split() == prose(40, "fresh").split()
        assert len({revision for revision, _, _ in rig.index.of("changed.txt")}) == 1
        assert rig.registry.documents["books", "changed.txt"].revision == 2
        assert rig.registry.documents["books", "fresh.txt"].revision == 1
        assert (job.state, job.progress.succeeded, job.progress.processed) == (JobState.SUCCEEDED, 2, 2)
        assert job.progress.chunks == len(rig.index.chunks)
        assert job.index_revision == rig.index.writes
        assert max(item.attempts for item in await rig.items(job)) <= 2

    await killed_everywhere(server, prepare, check)


async def test_a_kill_between_any_two_steps_of_a_listing_or_a_sweep_does_not_either(
    server: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)

    async def prepare(rig: Rig) -> str:
        rig.files.files = {"gone.md": prose(8, "gone").encode(), "0.md": prose(8, "f0").encode()}
        async with rig.working():
            await rig.ended(await rig.submit_directory())
        rig.files.files = {f"{at}.md": prose(8, f"f{at}").encode() for at in range(3)}
        return await rig.submit_directory(full=True)

    async def check(rig: Rig, job) -> None:  # type: ignore[no-untyped-def]
        assert (job.state, job.progress.total, job.progress.succeeded) == (JobState.SUCCEEDED, 3, 2)
        assert [item.spec.path for item in await rig.items(job)] == [f"{at}.md" for at in range(3)]
        assert set(rig.registry.deleted) == {"gone.md"}

    await killed_everywhere(server, prepare, check)


async def test_a_kill_in_a_cancelled_import_leaves_no_half_written_document(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        await rig.done(await rig.put(prose(100, "old")))
        job_id = await rig.submit(await rig.put(prose(60, "new")))
        upsert = rig.index.upsert

        async def cancelled_meanwhile(*args):  # type: ignore[no-untyped-def]
            await rig.store.cancel("acme", job_id)
            return await upsert(*args)

        rig.index.upsert = cancelled_meanwhile  # type: ignore[method-assign]
        return job_id

    async def check(rig: Rig, job) -> None:  # type: ignore[no-untyped-def]
        assert job.state is JobState.CANCELLED
        assert rig.text_of("a.txt").split() == prose(60, "new").split()
        [item] = await rig.items(job)
        assert item.state is ItemState.SUCCEEDED

    await killed_everywhere(server, prepare, check)


async def test_a_kill_while_a_document_is_given_up_leaves_its_older_revision(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        await rig.done(await rig.put(prose(40, "old")))
        rig.registry.limits = rig.registry.usage
        rig.registry.oblivious = True  # so that it is refused when its chunks have been written
        return await rig.submit(await rig.put(prose(120, "new")))

    async def check(rig: Rig, job) -> None:  # type: ignore[no-untyped-def]
        assert job.state is JobState.FAILED
        assert job.error.reason == "QUOTA_EXCEEDED"
        assert rig.text_of("a.txt").split() == prose(40, "old").split()

    await killed_everywhere(server, prepare, check)


async def test_a_document_over_the_quota_fails_by_name_before_anything_is_embedded(rig: Rig) -> None:
    rig.slots = 1  # two at once may both find room, and the one that records too late has embedded by then
    rig.registry.limits = replace(rig.registry.limits, documents=2)
    specs = [await rig.put(prose(8, f"w{at}"), f"{at}.txt") for at in range(4)]
    job = await rig.done(*specs)
    assert (job.state, job.progress.succeeded, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 2, 2)
    failed = [item for item in await rig.items(job) if item.error]
    assert [(item.attempts, item.error.reason) for item in failed if item.error] == [(1, "QUOTA_EXCEEDED")] * 2
    for item in failed:
        assert item.error is not None
        assert item.error.message.startswith(f"{item.spec.document_id}: documents: 2 of 2 are used, 1 more")
    assert len(rig.embedding.texts) == len(rig.index.chunks) == 2
    assert len(rig.registry.documents) == 2


async def test_a_document_refused_only_when_it_is_recorded_leaves_no_chunks(rig: Rig) -> None:
    rig.registry.limits = replace(rig.registry.limits, chunks=1)
    rig.registry.oblivious = True
    job = await rig.done(await rig.put(prose(120)))
    assert (job.state, job.error and job.error.reason) == (JobState.FAILED, "QUOTA_EXCEEDED")
    assert rig.index.chunks == {}
    assert [record.failure.reason for record in rig.registry.records if record.failure] == ["QUOTA_EXCEEDED"]


async def test_a_replacement_is_asked_for_only_by_what_it_is_larger(rig: Rig) -> None:
    await rig.done(await rig.put(prose(120)))
    before = rig.registry.usage
    rig.registry.limits = before
    job = await rig.done(await rig.put(prose(60, "word")))
    assert job.state is JobState.SUCCEEDED
    assert rig.registry.asked[-1] == Amounts()
    job = await rig.done(await rig.put(prose(480, "word")))
    assert (job.state, job.error and job.error.reason) == (JobState.FAILED, "QUOTA_EXCEEDED")
    assert rig.text_of("a.txt").split() == prose(60, "word").split()


async def test_a_worker_that_died_after_the_record_sees_off_the_older_revision(rig: Rig) -> None:
    await rig.done(await rig.put(prose(60, "old")))
    retire = rig.index.retire

    async def fails_once(*args):  # type: ignore[no-untyped-def]
        rig.index.retire = retire  # type: ignore[method-assign]
        raise DependencyUnavailable("retrieval is unavailable")

    rig.index.retire = fails_once  # type: ignore[method-assign]
    job = await rig.done(await rig.put(prose(60, "new")))
    assert job.state is JobState.SUCCEEDED
    assert rig.text_of("a.txt").split() == prose(60, "new").split()
    assert len({revision for revision, _, _ in rig.index.of("a.txt")}) == 1


async def test_chunks_the_index_lost_after_the_record_are_written_anew(rig: Rig) -> None:
    retire = rig.index.retire

    async def loses_one(*args):  # type: ignore[no-untyped-def]
        rig.index.retire = retire  # type: ignore[method-assign]
        rig.index.chunks.pop(next(iter(rig.index.chunks)))
        return await retire(*args)

    rig.index.retire = loses_one  # type: ignore[method-assign]
    job = await rig.done(await rig.put(prose(120)))
    assert job.state is JobState.SUCCEEDED
    assert rig.text_of("a.txt").split() == prose(120).split()


def test_the_trap_kills_where_it_is_told() -> None:
    trap = Trap(1)
    trap.step("one")
    with pytest.raises(Killed):
        trap.step("two")
