"""Imports of tables: the real store and pipeline, the other services in memory."""

import json
import secrets
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.jobs import expansion
from services.jobs.adapters.redis import Redis
from services.jobs.estimator import Estimator
from services.jobs.importer import Importer, ImportRequest, RowSource
from services.jobs.job import Job, JobState, RowFormat, TableImport
from services.jobs.reading import Reader
from services.mesh.errors import InvalidArgument, PathNotAllowed, UploadNotFound
from services.mesh.identity import Caller
from tests.jobs_rig import Rig, until
from tests.jobs_store import Store, store_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


def rows(*values: dict[str, Any] | str) -> str:
    return "\n".join(each if isinstance(each, str) else json.dumps(each) for each in values)


async def submitted(rig: Rig, text: str = "", *, path: str = "", content_hash: str = "", **fields: Any) -> Job:
    reader = Reader(rig.blobs, rig.files, rig.web, max_bytes=10_000)
    estimator = Estimator(rig.registry, rig.models, rig.blobs, rig.extractor, reader)
    importer = Importer(rig.submissions, rig.registry, rig.blobs, rig.files, estimator)
    kind = fields.pop("format", RowFormat.JSONL)
    table = TableImport(content_hash, "rows", kind, id_field="id", text_fields=("text",))
    request = ImportRequest("books", RowSource(table, text, path), **fields)
    return await importer.import_documents(request, Caller(tenant="acme", subject="ann"))


async def imported(rig: Rig, text: str = "", **fields: Any) -> Job:
    job = await submitted(rig, text, **fields)
    async with rig.working():
        return await rig.ended(job.id)


def kept(rig: Rig) -> set[str]:
    return {document for _, document in rig.registry.documents}


async def test_each_row_becomes_a_document(rig: Rig) -> None:
    job = await imported(rig, rows({"id": "a", "text": "One.", "year": 1}, {"id": "b", "text": "Two."}))
    assert (job.state, job.progress.total, job.progress.succeeded) == (JobState.SUCCEEDED, 2, 2)
    assert (rig.text_of("a"), rig.text_of("b")) == ("One.", "Two.")
    record = next(each for each in rig.registry.records if each.fields.spec.document_id == "a")
    assert (record.fields.spec.metadata, record.fields.mime_type, record.source_key) == (
        {"year": 1},
        "text/plain",
        "rows",
    )
    assert [item.spec.source_uri for item in await rig.items(job)] == ["rows#line=1", "rows#line=2"]


async def test_a_row_that_is_wrong_fails_alone_with_its_line(rig: Rig) -> None:
    wrong = ("{", {"text": "x"}, {"id": "a", "text": "Again."}, {"id": "b", "text": " "})
    job = await imported(rig, rows({"id": "a", "text": "One."}, *wrong))
    assert (job.state, job.progress.succeeded, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 1, 4)
    told = [(item.error.reason, item.error.message, item.attempts) for item in await rig.items(job) if item.error]
    assert told == [
        ("INVALID_ROW", "rows#line=2: not JSON", 1),
        ("INVALID_ROW", "rows#line=3: has no field 'id', which makes its id", 1),
        ("INVALID_ROW", "rows#line=4: its id a is that of an earlier row too", 1),
        ("NO_TEXT_FOUND", "b: it holds no text", 1),
    ]
    assert rig.text_of("a") == "One."


async def test_a_row_whose_id_came_pages_before_is_refused(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)
    table = rows(*({"id": str(at % 5), "text": f"Row {at}."} for at in range(7)))
    job = await imported(rig, table)
    assert (job.progress.succeeded, job.progress.failed) == (5, 2)
    assert [item.number for item in await rig.items(job) if item.error] == [6, 7]


async def test_unchanged_rows_are_skipped_wherever_they_stand_now(rig: Rig) -> None:
    await imported(rig, rows({"id": "a", "text": "One."}, {"id": "b", "text": "Two."}))
    embedded = len(rig.embedding.texts)
    job = await imported(
        rig, rows({"id": "c", "text": "New."}, {"id": "b", "text": "Two."}, {"id": "a", "text": "Changed."})
    )
    assert (job.progress.skipped, job.progress.succeeded) == (1, 2)
    assert len(rig.embedding.texts) == embedded + 2
    assert rig.text_of("a") == "Changed."


async def test_a_full_import_deletes_rows_that_vanished_and_no_other_documents(rig: Rig) -> None:
    await rig.done(await rig.put("Inline.", "inline.txt"))
    await imported(rig, rows({"id": "a", "text": "One."}, {"id": "b", "text": "Two."}))
    assert (await imported(rig, rows({"id": "b", "text": "Two."}), full=True)).state is JobState.SUCCEEDED
    assert kept(rig) == {"b", "inline.txt"}


async def test_a_full_import_deletes_nothing_while_a_row_cannot_be_told(rig: Rig) -> None:
    await imported(rig, rows({"id": "a", "text": "One."}, {"id": "b", "text": "Two."}))
    job = await imported(rig, rows({"id": "a", "text": "One."}, '{"id": "b", "te'), full=True)
    assert job.state is JobState.PARTIALLY_SUCCEEDED
    assert kept(rig) == {"a", "b"}
    twice = rows({"id": "a", "text": "One."}, {"id": "a", "text": "x"})
    assert (await imported(rig, twice, full=True)).progress.failed == 1
    assert kept(rig) == {"a"}  # who stands twice is known all the same


async def test_a_table_is_taken_from_a_file_and_its_rows_from_what_it_held_then(rig: Rig) -> None:
    rig.files.files["books.csv"] = b"id,text\na,One.\nb,Two.\n"
    job = await submitted(rig, path="docs/books.csv", format=RowFormat.CSV)
    rig.files.files["books.csv"] = b"gone"
    async with rig.working():
        job = await rig.ended(job.id)
    assert (job.state, kept(rig), job.assignment.source_key) == (JobState.SUCCEEDED, {"a", "b"}, "rows:docs/books.csv")
    assert (await rig.items(job))[0].spec.source_uri == "docs/books.csv#line=2"


async def test_an_uploaded_table_is_imported(rig: Rig) -> None:
    spec = await rig.put("id,text\na,One.\n")
    job = await imported(rig, content_hash=spec.content_hash, format=RowFormat.CSV)
    assert (job.state, kept(rig)) == (JobState.SUCCEEDED, {"a"})


async def test_what_is_wrong_with_a_table_as_a_whole_is_said_at_once(rig: Rig) -> None:
    with pytest.raises(UploadNotFound, match=r"rows\.content_hash"):
        await submitted(rig, content_hash="0" * 64)
    with pytest.raises(InvalidArgument, match="rows: its first row"):
        await submitted(rig, "", format=RowFormat.CSV)
    with pytest.raises(InvalidArgument, match=r"rows.fields.id_field: the table has no field 'id'"):
        await submitted(rig, "key,text\n", format=RowFormat.CSV)
    with pytest.raises(PathNotAllowed, match=r"rows\.path"):
        await submitted(rig, path="docs")


async def test_an_estimate_counts_rows_and_keeps_nothing(rig: Rig) -> None:
    job = await submitted(
        rig, rows({"id": "a", "text": "One two."}, "{", {"id": "b", "text": "Three."}), validate_only=True
    )
    assert job.estimate is not None
    assert (job.estimate.documents, job.estimate.chunks) == (2, 2)
    assert (rig.registry.records, rig.blobs.contents) == ([], {})


async def test_to_run_what_failed_again_deletes_nothing_either(rig: Rig) -> None:
    await imported(rig, rows({"id": "a", "text": "One."}, {"id": "b", "text": "Two."}))
    job = await imported(rig, rows({"id": "a", "text": "One."}, '{"id": "b", "te'), full=True)
    await rig.store.retry("acme", job.id)
    async with rig.working():
        again = await until(lambda: _ended(rig, job.id, 2))
    assert (again.state, again.attempt) == (JobState.PARTIALLY_SUCCEEDED, 2)
    assert kept(rig) == {"a", "b"}


async def _ended(rig: Rig, job_id: str, attempt: int) -> Job | None:
    job = await rig.store.get("acme", job_id)
    return job if job.state.ended and job.attempt == attempt else None
