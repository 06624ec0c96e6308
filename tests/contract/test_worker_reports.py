"""What workers write into the store, system reads, and knows how old it is."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.mesh.redis import open_redis
from services.mesh.reports import DependencyReport, ProcessReport, State
from services.mesh.settings import MeshSettings
from services.mesh.this_process import ThisProcess, Unchecked
from services.mesh.worker_reports import KEPT_S, KEY, SILENT_S, WorkerReports, reporting
from services.system.adapters.redis_workers import RedisWorkers
from tests.jobs_store import Store, store_in

ONE = ProcessReport("worker-1", State.DEGRADED, dependencies=(DependencyReport("embedding", State.DOWN),))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("r")) as running:
        yield running


@pytest.fixture
async def client(store: Store) -> AsyncIterator[Any]:
    async with open_redis(store.url, connections=2) as opened:
        await opened.flushall()
        yield opened


async def aged(client: Any, name: str, seconds: float) -> None:
    """As if so much time had passed since the worker last wrote."""
    await client.pexpire(f"{KEY}:{name}", round((KEPT_S - seconds) * 1000))


async def test_each_worker_is_told_as_it_reported_with_the_age_of_that(client: Any) -> None:
    assert await RedisWorkers(client).look() == []
    for name in ("worker-2", "worker-1", "worker-1"):
        await WorkerReports(client).write(replace(ONE, name=name))
    await aged(client, "worker-1", 5)
    one, two = await RedisWorkers(client).look()
    assert (replace(one, response_s=None), two.name) == (ONE, "worker-2")
    assert one.response_s is not None and 5 <= one.response_s < SILENT_S


async def test_a_worker_that_fell_silent_is_down_and_forgotten_in_the_end(client: Any) -> None:
    await WorkerReports(client).write(ONE)
    await aged(client, "worker-1", SILENT_S + 25)
    (silent,) = await RedisWorkers(client).look()
    assert (silent.state, silent.error) == (State.DOWN, "silent for 40 s")
    await client.delete(f"{KEY}:worker-1")
    assert await RedisWorkers(client).look() == []
    assert not await client.exists(KEY)


async def test_a_worker_reports_while_it_works_and_leaves_nothing_behind(
    client: Any, store: Store, tmp_path: Path
) -> None:
    settings = MeshSettings(data_dir=tmp_path, redis_url=store.url, process="worker-7")
    async with reporting(ThisProcess("worker", settings, Unchecked()), settings, every_s=0.01):
        while not (found := await RedisWorkers(client).look()):
            await asyncio.sleep(0.01)
        assert [(each.name, each.state) for each in found] == [("worker-7", State.SERVING)]
        await client.flushall()  # a store that lost its data is told again
        while not await RedisWorkers(client).look():
            await asyncio.sleep(0.01)
    assert await client.keys(f"{KEY}*") == []


async def test_without_the_store_nothing_is_known_of_the_workers_and_they_work_on(tmp_path: Path) -> None:
    settings = MeshSettings(data_dir=tmp_path, redis_url=f"unix://{tmp_path}/nobody.sock", process="worker-7")
    itself = ThisProcess("worker", settings, Unchecked())
    async with (
        reporting(itself, settings, every_s=0.01),
        open_redis(settings.redis_url, connections=1) as nobody,
    ):
        (told,) = await RedisWorkers(nobody).look()
    assert (told.name, told.state, told.error.partition(":")[0]) == ("worker", State.DOWN, "not known")
