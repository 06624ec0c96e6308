"""Evaluations as jobs: whole jobs over the real queue, retrieval in memory."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from services.jobs import expansion
from services.jobs.adapters.redis import Redis
from services.jobs.adapters.redis_event_log import RedisEventLog
from services.jobs.evaluating import EvaluationJobs, EvaluationRequest
from services.jobs.job import ItemState, Job, JobState, JobType
from services.mesh.errors import CollectionDisabled, CollectionNotFound, DependencyUnavailable
from services.mesh.identity import Caller
from tests.jobs_fakes import MemoryRuns
from tests.jobs_rig import Rig, killed_everywhere, until
from tests.jobs_store import Store, store_in

ANN = Caller(tenant="acme", subject="ann", principals=frozenset({"user:ann", "group:staff"}))
ASKED = EvaluationRequest("e1", "books", echo=b"")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


@pytest.fixture
async def rig(server: Store) -> AsyncIterator[Rig]:
    async with Redis.open(server.url, f"{secrets.token_hex(4)}:") as redis:
        yield Rig(redis, evaluations=MemoryRuns("q1", "q2", "q3"))


async def submitted(rig: Rig) -> Job:
    return await EvaluationJobs(rig.submissions).submit(ASKED, ANN)


async def done(rig: Rig) -> Job:
    job = await submitted(rig)
    async with rig.working():
        return await rig.ended(job.id)


async def test_every_query_runs_once_as_the_caller_and_then_the_evaluation_is_concluded(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expansion, "_ITEMS_A_PAGE", 2)
    job = await done(rig)
    assert (job.assignment.type, job.state, job.progress.total) == (JobType.EVALUATE, JobState.SUCCEEDED, 3)
    assert job.progress.processed == 3
    assert sorted(query for _, query, _ in rig.evaluations.ran) == ["q1", "q2", "q3"]
    for _, _, who in rig.evaluations.ran:
        assert (who.tenant, who.subject, who.principals) == ("acme", "ann", ANN.principals)
    assert rig.evaluations.concluded == ["e1"]
    assert [item.spec.source_uri for item in await rig.items(job)] == [f"evaluations/e1#q{at}" for at in (1, 2, 3)]
    topics = {each.topic for each in await RedisEventLog(rig.redis).read("acme", 0, 100)}
    assert not any(topic.startswith("document.") for topic in topics)


async def test_the_same_evaluation_has_the_same_job(rig: Rig) -> None:
    job = await submitted(rig)
    assert (await submitted(rig)).id == job.id
    assert (await EvaluationJobs(rig.submissions).submit(replace(ASKED, evaluation_id="e2"), ANN)).id != job.id


async def test_what_is_only_checked_is_kept_nowhere(rig: Rig) -> None:
    checked = await EvaluationJobs(rig.submissions).submit(replace(ASKED, validate_only=True), ANN)
    assert checked.id == ""
    with pytest.raises(CollectionNotFound):
        await EvaluationJobs(rig.submissions).submit(replace(ASKED, collection_id="none"), ANN)
    rig.registry.collections["books"] = replace(rig.registry.collections["books"], disabled=True)
    with pytest.raises(CollectionDisabled):
        await submitted(rig)


async def test_a_query_that_fails_counts_and_is_not_fatal(rig: Rig) -> None:
    rig.evaluations.failures["q2"] = CollectionNotFound("gone meanwhile")
    job = await done(rig)
    assert (job.state, job.progress.succeeded, job.progress.failed) == (JobState.PARTIALLY_SUCCEEDED, 2, 1)
    assert rig.evaluations.concluded == ["e1"]
    failed = [item for item in await rig.items(job) if item.state is ItemState.FAILED]
    assert [(item.spec.document_id, item.error and item.error.reason) for item in failed] == [
        ("q2", "COLLECTION_NOT_FOUND")
    ]
    rig.evaluations.failures.clear()
    await rig.store.retry("acme", job.id)
    async with rig.working():
        again = await until(lambda: _succeeded(rig, job.id))
    assert (again.progress.succeeded, again.progress.failed) == (3, 0)
    assert [query for _, query, _ in rig.evaluations.ran].count("q1") == 1
    assert rig.evaluations.concluded == ["e1", "e1"]


async def _succeeded(rig: Rig, job_id: str) -> Job | None:
    job = await rig.store.get("acme", job_id)
    return job if job.state is JobState.SUCCEEDED else None


async def test_a_search_that_nobody_answers_is_tried_again(rig: Rig) -> None:
    rig.evaluations.failures["q1"] = DependencyUnavailable("retrieval is away")
    job = await submitted(rig)
    async with rig.working():
        await until(lambda: [query for _, query, _ in rig.evaluations.ran].count("q1") > 1)
        rig.evaluations.failures.clear()
        assert (await rig.ended(job.id)).state is JobState.SUCCEEDED


async def test_a_cancelled_evaluation_stops_in_the_middle_of_a_query_and_is_not_concluded(rig: Rig) -> None:
    rig.evaluations.held = {"q1", "q2", "q3"}
    job = await submitted(rig)
    async with rig.working(), asyncio.timeout(5):
        await until(lambda: len(rig.evaluations.ran) == 2)
        await rig.store.cancel("acme", job.id)
        assert (await rig.ended(job.id)).state is JobState.CANCELLED
    assert len(rig.evaluations.ran) == 2
    assert not rig.evaluations.concluded


async def test_a_worker_killed_at_any_step_counts_no_query_twice(server: Store) -> None:
    async def prepare(rig: Rig) -> str:
        rig.evaluations.ids = ["q1", "q2"]
        return (await submitted(rig)).id

    async def check(rig: Rig, job: Job) -> None:
        assert (job.state, job.progress.total, job.progress.succeeded) == (JobState.SUCCEEDED, 2, 2)
        assert {query for _, query, _ in rig.evaluations.ran} == {"q1", "q2"}
        assert set(rig.evaluations.concluded) == {"e1"}

    await killed_everywhere(server, prepare, check)
