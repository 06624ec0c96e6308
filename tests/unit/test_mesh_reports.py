"""What a process tells of itself, and that nothing of it is lost on the way."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from ragweave.v1.health_pb2 import Health
from services.jobs.backlog import queues_of
from services.jobs.ports_backlog import Backlog
from services.mesh.breakers import Breaker, Limits
from services.mesh.breakers import State as BreakerState
from services.mesh.consumption import Consumption
from services.mesh.convert_reports import process_from, process_to
from services.mesh.errors import DependencyUnavailable
from services.mesh.health import Readiness
from services.mesh.heartbeat import beating, is_beating
from services.mesh.reports import (
    BreakerReport,
    DependencyReport,
    ProcessReport,
    QueueReport,
    State,
    worst,
)
from services.mesh.settings import MeshSettings
from services.mesh.this_process import ThisProcess, with_breakers

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
WHOLE = ProcessReport(
    name="jobs-2",
    state=State.DEGRADED,
    error="embedding: takes no calls",
    version="1.2.3",
    commit="abc",
    start_time=NOON,
    uptime_s=60.5,
    response_s=0.001,
    memory_bytes=3 * 2**30,
    cpu_usage=0.25,
    loop_lag_s=0.002,
    running_calls=7,
    dependencies=(
        DependencyReport("redis", State.SERVING, required=True, response_s=0.0005),
        DependencyReport(
            "embedding", State.DOWN, error="silent", breaker=BreakerReport(BreakerState.OPEN, 5, NOON, "TimeoutError")
        ),
    ),
    queues=(QueueReport("jobs", 5, 4, 3, 120.5, 2, 31.25), QueueReport("webhooks", 1)),
)


@dataclass
class Known:
    """Dependencies as they were found."""

    found: Sequence[DependencyReport] = ()
    draining: bool = False

    def reports(self) -> Sequence[DependencyReport]:
        return self.found


@dataclass
class Door:
    """A dependency that is up or down, and says secrets where it is down."""

    error: Exception | None = None
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def check(self) -> None:
        if self.error:
            raise self.error


def settings(folder: Path) -> MeshSettings:
    return MeshSettings(data_dir=folder, process="jobs-2", commit="abc")


def test_a_report_arrives_as_it_was_sent() -> None:
    assert process_from(Health.Process.FromString(process_to(WHOLE).SerializeToString())) == WHOLE
    bare = ProcessReport("x", State.SERVING)
    assert process_from(process_to(bare)) == bare


def test_a_state_of_a_later_version_is_not_taken_for_serving() -> None:
    later = process_to(replace(WHOLE, dependencies=(), queues=()))
    later.state = 77  # type: ignore[assignment]
    assert process_from(later).state is State.DEGRADED


def test_texts_are_cut_to_what_the_contract_takes() -> None:
    assert len(process_to(replace(WHOLE, error="x" * 5000)).error) == 1024


@pytest.mark.parametrize(
    ("dependencies", "state", "error"),
    [
        ([], State.SERVING, ""),
        ([("a", State.SERVING, True), ("b", State.SERVING, False)], State.SERVING, ""),
        ([("a", State.SERVING, True), ("b", State.DOWN, False)], State.DEGRADED, "b: DOWN"),
        ([("a", State.DEGRADED, True)], State.DEGRADED, "a: DEGRADED"),
        ([("b", State.DOWN, False), ("a", State.DOWN, True)], State.DOWN, "a: DOWN; b: DOWN"),
    ],
)
def test_only_what_is_required_takes_a_process_out(
    dependencies: list[tuple[str, State, bool]], state: State, error: str
) -> None:
    assert worst(DependencyReport(*each) for each in dependencies) == (state, error)


def breaker(dependency: str, *, failures: int) -> Breaker:
    made = Breaker(dependency, Limits(failures=2), registry=CollectorRegistry())
    for _ in range(failures):
        with pytest.raises(ConnectionError), made.asking():
            raise ConnectionError("redis://user:hunter2@store")
    return made


def test_a_breaker_is_told_with_its_dependency_and_the_worse_of_the_two_counts() -> None:
    looked_at = [DependencyReport("redis", State.SERVING, required=True, response_s=0.001)]
    breakers = [breaker("redis", failures=2), breaker("embedding", failures=1), breaker("rerank", failures=2)]
    redis, embedding, rerank = with_breakers(looked_at, breakers)
    assert (redis.name, redis.state, redis.required, redis.response_s) == ("redis", State.DOWN, True, 0.001)
    assert redis.breaker is not None and redis.breaker.state is BreakerState.OPEN
    assert redis.breaker.open_time is not None and redis.error == redis.breaker.last_error
    assert (embedding.state, embedding.error, embedding.required) == (State.SERVING, "", False)
    assert embedding.breaker is not None and embedding.breaker.failures == 1
    assert (rerank.state, rerank.response_s) == (State.DOWN, None)


async def test_a_process_tells_of_itself_what_the_kernel_its_breakers_and_its_queues_know(tmp_path: Path) -> None:
    async def queues() -> list[QueueReport]:
        return [QueueReport("jobs", 3)]

    down = DependencyReport("embedding", State.DOWN, error="takes no calls")
    process = ThisProcess(
        "jobs", settings(tmp_path), Known([down]), queues=queues, running_calls=lambda: 7, loop_lag_s=lambda: 0.5
    )
    told = await process.report()
    assert (told.name, told.state, told.error) == ("jobs-2", State.DEGRADED, "embedding: takes no calls")
    assert (told.running_calls, told.loop_lag_s, told.commit) == (7, 0.5, "abc")
    assert told.memory_bytes > 2**20 and told.version and told.start_time and told.uptime_s is not None
    assert told.queues == (QueueReport("jobs", 3),)


async def test_a_process_without_a_name_of_its_own_has_its_service_s_and_its_host_s(tmp_path: Path) -> None:
    process = ThisProcess("jobs", MeshSettings(data_dir=tmp_path, process=""), Known())
    assert (await process.report()).name.startswith("jobs@")


async def test_a_process_that_drains_is_down_whatever_its_dependencies(tmp_path: Path) -> None:
    told = await ThisProcess("jobs", settings(tmp_path), Known(draining=True)).report()
    assert (told.state, told.error) == (State.DOWN, "stopping")


async def test_queues_that_cannot_be_asked_are_left_out_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> list[QueueReport]:
        raise DependencyUnavailable("redis does not answer")

    async def silent() -> list[QueueReport]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr("services.mesh.this_process._QUEUES_TIMEOUT_S", 0.01)
    for queues in (away, silent):
        told = await ThisProcess("jobs", settings(tmp_path), Known(), queues=queues).report()
        assert (told.state, told.queues) == (State.SERVING, ())


async def test_a_dependency_that_is_not_required_is_told_and_leaves_the_process_in_rotation() -> None:
    required, optional = Door(), Door(ConnectionError("redis://user:hunter2@store"))
    readiness = Readiness(["x.Y"], {"store": required.check}, {"redis": optional.check}, interval_s=1)
    await readiness.start()
    await readiness.check()
    store, redis = readiness.reports()
    assert (store.state, store.required, store.error) == (State.SERVING, True, "")
    assert store.response_s is not None and store.response_s < 1
    assert (redis.state, redis.required, redis.error) == (State.DOWN, False, "ConnectionError")
    assert readiness.serving


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DependencyUnavailable("the database does not answer"), "the database does not answer"),
        (OSError("/secret/place"), "OSError"),
        (grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, *[grpc.aio.Metadata()] * 2, "10.0.0.1"), "UNAVAILABLE"),
    ],
)
async def test_why_a_check_failed_is_told_without_addresses_or_secrets(error: Exception, said: str) -> None:
    readiness = Readiness([], {"it": Door(error).check}, interval_s=1)
    await readiness.check()
    assert readiness.reports()[0].error.removeprefix("answers ") == said


def test_memory_and_processor_time_are_those_of_the_children_too() -> None:
    spin = "import sys; kept = bytearray(64 * 2**20)\nprint('up', flush=True)\nwhile True: pass"
    now = [0.0]
    alone = Consumption(clock=lambda: now[0]).memory_bytes()
    with subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"up\n"
            consumption = Consumption(clock=lambda: now[0])
            assert consumption.memory_bytes() > alone + 60 * 2**20
            taken = f"/proc/{child.pid}/stat"
            before = _ticks(taken)
            while _ticks(taken) < before + 20:  # a fifth of a second of its time, however long that takes
                pass
            now[0] = 1.0
            assert consumption.cpu_usage() > 0.15
        finally:
            child.kill()


def _ticks(path: str) -> int:
    return int(Path(path).read_text().rpartition(")")[2].split()[11])


def test_usage_is_told_as_it_was_while_the_last_look_is_fresh() -> None:
    now = [0.0]
    consumption = Consumption(clock=lambda: now[0])
    now[0] = 0.5
    assert consumption.cpu_usage() == 0.0


async def test_a_loop_that_runs_touches_its_file_and_one_that_stands_still_does_not(tmp_path: Path) -> None:
    file = tmp_path / "beat"
    assert not is_beating(file)
    async with beating(file, beat_s=0.001):
        os.utime(file, (0, 0))
        while not is_beating(file):
            await asyncio.sleep(0.001)
    os.utime(file, (0, 0))
    assert not is_beating(file)


async def test_a_process_without_a_file_beats_for_nobody() -> None:
    async with beating(None):
        pass


@dataclass
class FakeBacklog:
    """Has that much left to do."""

    left: Backlog

    async def backlog(self, most: int) -> Backlog:
        return self.left


async def test_what_is_left_to_do_is_told_as_queues_and_what_is_not_there_has_no_age() -> None:
    left = Backlog(5, 4, 3, oldest_s=9, late=2, silence_s=7, deliveries=1, overdue_s=0.5)
    jobs, deliveries = await queues_of(FakeBacklog(left))
    assert jobs == QueueReport("jobs", 5, 4, 3, 9, 2, 7)
    assert deliveries == QueueReport("webhook deliveries", 1, oldest_s=0.5)
    assert await queues_of(FakeBacklog(Backlog())) == [QueueReport("jobs", 0), QueueReport("webhook deliveries", 0)]
