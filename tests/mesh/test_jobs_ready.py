"""Imports of chunks that callers have cut: the real store and pipeline, the other services in memory."""

import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.jobs.adapters.redis import Redis
from services.jobs.estimator import Estimator
from services.jobs.importer import Importer, ImportRequest, InlineDocument, InlineSource
from services.jobs.job import DocumentSpec, Job, JobState
from services.jobs.reading import Reader
from services.jobs.ready import READY_TYPE, ReadyChunk, ReadyChunks, unit_vector
from services.mesh.errors import InvalidArgument
from services.mesh.identity import Caller
from tests.jobs_rig import Rig
from tests.jobs_store import Store, store_in

VECTOR = unit_vector([1, 2, 3, 4], "v")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis)


async def submitted(rig: Rig, *chunks: ReadyChunk, validate_only: bool = False, **fields: Any) -> Job:
    reader = Reader(rig.blobs, rig.files, rig.web, max_bytes=10_000)
    estimator = Estimator(rig.registry, rig.models, rig.blobs, rig.extractor, reader)
    importer = Importer(rig.submissions, rig.registry, rig.blobs, rig.files, estimator)
    document = InlineDocument(DocumentSpec("a", **fields), b"", ReadyChunks(chunks))
    request = ImportRequest("books", InlineSource([document]), validate_only=validate_only)
    return await importer.import_documents(request, Caller(tenant="acme", subject="ann"))


async def imported(rig: Rig, *chunks: ReadyChunk, **fields: Any) -> Job:
    job = await submitted(rig, *chunks, **fields)
    async with rig.working():
        return await rig.ended(job.id)


async def test_chunks_are_indexed_as_they_were_cut_and_only_those_without_a_vector_embedded(rig: Rig) -> None:
    job = await imported(rig, ReadyChunk("One.", "Title", VECTOR), ReadyChunk("Two.", "Title"), title="Words")
    assert (job.state, job.progress.chunks) == (JobState.SUCCEEDED, 2)
    first, second = (chunk for _, chunk, _ in rig.index.of("a"))
    assert (first.chunk.text, first.chunk.context, first.vector) == ("One.", "Title", VECTOR)
    assert (second.chunk.text, rig.embedding.texts) == ("Two.", ["Title\nTwo."])
    assert rig.extractor.extracted == []
    (record,) = rig.registry.records
    assert (record.fields.mime_type, record.fields.title) == (READY_TYPE, "Words")


async def test_the_same_chunks_again_are_skipped_and_another_vector_replaces_them(rig: Rig) -> None:
    await imported(rig, ReadyChunk("One.", vector=VECTOR))
    assert (await imported(rig, ReadyChunk("One.", vector=VECTOR))).progress.skipped == 1
    other = unit_vector([4, 3, 2, 1], "v")
    assert (await imported(rig, ReadyChunk("One.", vector=other))).progress.succeeded == 1
    assert [chunk.vector for _, chunk, _ in rig.index.of("a")] == [other]


async def test_new_fields_of_the_same_chunks_are_written_without_embedding(rig: Rig) -> None:
    await imported(rig, ReadyChunk("One."), title="Old")
    assert (await imported(rig, ReadyChunk("One."), title="New")).progress.succeeded == 1
    assert len(rig.embedding.texts) == 1
    assert {fields.title for _, _, fields in rig.index.of("a")} == {"New"}


async def test_under_another_model_the_texts_are_embedded_and_the_chunks_stay(rig: Rig) -> None:
    await imported(rig, ReadyChunk("One.", vector=VECTOR))
    kept = rig.registry.records[0].fields
    rig.registry.collections["books"] = replace(rig.registry.collections["books"], embedding_model="other")
    rig.models.revision = rig.embedding.model_revision = "r2"
    spec = replace(kept.spec, content_hash=kept.content_hash, mime_type=kept.mime_type)
    assert (await rig.done(spec)).progress.succeeded == 1
    assert rig.embedding.texts == ["One."]
    assert [chunk.chunk.text for _, chunk, _ in rig.index.of("a")] == ["One."]


async def test_a_vector_of_another_dimension_is_refused_before_anything_is_kept(rig: Rig) -> None:
    with pytest.raises(InvalidArgument, match=r"inline.documents\[0\].ready.chunks\[1\].vector: has 2 dimensions"):
        await submitted(rig, ReadyChunk("One.", vector=VECTOR), ReadyChunk("Two.", vector=VECTOR[:8]))
    with pytest.raises(InvalidArgument, match="mime_type: is not for ready chunks"):
        await submitted(rig, ReadyChunk("One."), mime_type="text/plain")
    assert rig.blobs.contents == {}


async def test_an_upload_that_only_claims_to_be_chunks_fails_alone(rig: Rig) -> None:
    job = await rig.done(await rig.put("words", mime_type=READY_TYPE, charset=""))
    assert (job.state, job.error and job.error.reason) == (JobState.FAILED, "UNREADABLE_DOCUMENT")


async def test_an_estimate_counts_chunks_as_they_were_cut(rig: Rig) -> None:
    job = await submitted(rig, ReadyChunk("One."), ReadyChunk("Two.", vector=VECTOR), validate_only=True)
    assert job.estimate is not None
    assert (job.estimate.documents, job.estimate.chunks) == (1, 2)
