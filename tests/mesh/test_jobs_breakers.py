"""Work of jobs at an open breaker: it waits, costs no attempt, and goes on when the dependency answers again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from ragweave.v1.job_pb2 import Job, JobItem
from services.mesh.breakers import Breakers, Limits, State
from tests.jobs_rig import until
from tests.jobs_store import Store, store_in
from tests.mesh.test_jobs_service import inline, jobs_service
from tests.ports import free_port


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("store")) as store:
        yield store


async def test_a_jobs_work_waits_at_an_open_breaker_and_goes_on_when_it_closes(server: Store, tmp_path: Path) -> None:
    registry, port = CollectorRegistry(), free_port()
    breakers = Breakers(Limits(failures=2, open_s=0.2, look_s=0.05), registry)
    embedding = breakers.of("embedding")

    def refusals() -> float:
        return registry.get_sample_value("ragweave_breaker_refusals_total", {"dependency": "embedding"}) or 0.0

    async with jobs_service(server, tmp_path) as jobs:
        job = await jobs.submit(inline=inline(("a", "one two"), ("b", "three")))
        async with jobs.working(breakers, embedding_target=jobs.world.target(port)):
            await until(lambda: refusals() >= 3)
            waiting = await jobs.items(job.name)
            assert [(each.state, each.attempts) for each in waiting] == [(JobItem.RUNNING, 1)] * 2
            assert not any(each.HasField("error") for each in waiting)
            assert embedding.state is not State.CLOSED
            async with jobs.peers.running(jobs.world, port):
                ended = await jobs.ended(job.name)
        assert (ended.state, ended.progress.succeeded, ended.attempt) == (Job.SUCCEEDED, 2, 1)
        assert [each.attempts for each in await jobs.items(job.name)] == [1, 1]
    assert embedding.state is State.CLOSED
    assert {document_id for _, document_id, _ in jobs.peers.chunks} == {"a", "b"}
