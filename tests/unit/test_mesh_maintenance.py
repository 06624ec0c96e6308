"""One loop of maintenance: each step when it is due, whatever becomes of the others."""

import asyncio

import pytest
import structlog
from prometheus_client import CollectorRegistry

from services.mesh.errors import DependencyUnavailable
from services.mesh.maintenance import Maintenance, Step


class Work:
    """A step's work; may fail."""

    def __init__(self, done: int = 0) -> None:
        self.done = done
        self.runs = 0
        self.error: Exception | None = None
        self.ran = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        self.ran.set()
        if self.error:
            raise self.error
        return self.done


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def maintenance(
    *steps: Step, clock: Clock | None = None, wall: Clock | None = None, registry: CollectorRegistry | None = None
) -> Maintenance:
    clock = clock or Clock()
    return Maintenance(
        "jobs", steps, interval_s=0.01, clock=clock, wall=wall or clock, registry=registry or CollectorRegistry()
    )


@pytest.mark.parametrize("error", [DependencyUnavailable("the database does not answer"), RuntimeError("a defect")])
async def test_a_step_that_fails_is_left_for_the_next_sweep_and_the_others_go_on(error: Exception) -> None:
    first, second = Work(), Work()
    swept = maintenance(Step("first", first, every_s=3600), Step("second", second))
    first.error = error
    await swept.sweep()
    await swept.sweep()
    assert (first.runs, second.runs) == (2, 2), "what failed is not put off until it would have been due"
    first.error = None
    await swept.sweep()
    await swept.sweep()
    assert (first.runs, second.runs) == (3, 4)


async def test_a_step_is_taken_when_it_is_due() -> None:
    clock, hourly = Clock(), Work()
    swept = maintenance(Step("hourly", hourly, every_s=3600), clock=clock)
    for seconds, runs in ((0, 1), (3599, 1), (1, 2), (10, 2)):
        clock.now_s += seconds
        await swept.sweep()
        assert hourly.runs == runs


async def test_what_was_done_and_when_is_logged_and_counted() -> None:
    registry, work = CollectorRegistry(), Work(done=3)
    swept = maintenance(Step("purge", work), registry=registry)
    with structlog.testing.capture_logs() as logs:
        await swept.sweep()
        work.error = DependencyUnavailable("no answer")
        await swept.sweep()
    assert [(each["event"], each.get("done")) for each in logs] == [("maintained", 3), ("maintenance put off", None)]
    assert logs[0]["last_run"] is None
    assert logs[1]["last_run"] is not None
    labels = {"service": "jobs", "step": "purge"}
    assert registry.get_sample_value("ragweave_maintenance_done_total", labels) == 3
    assert registry.get_sample_value("ragweave_maintenance_last_run_timestamp_seconds", labels)


async def test_it_sweeps_inside_the_block_from_its_beginning_on() -> None:
    work = Work()
    async with maintenance(Step("purge", work)).running():
        for _ in range(3):
            work.ran.clear()
            await work.ran.wait()
    runs = work.runs
    await asyncio.sleep(0)
    assert work.runs == runs


@pytest.mark.parametrize("jump_s", [-7200, 40 * 24 * 3600], ids=["back", "forth"])
async def test_a_clock_that_jumps_is_not_believed_until_it_had_time_to_be_set_right(jump_s: float) -> None:
    clock, wall, work = Clock(), Clock(), Work()
    swept = maintenance(Step("purge", work), clock=clock, wall=wall)
    await swept.sweep()
    wall.now_s += jump_s
    with structlog.testing.capture_logs() as lines:
        await swept.sweep()
    assert [line["by_s"] for line in lines if "clock jumped" in line["event"]] == [jump_s]
    for clock_of in (clock, wall):
        clock_of.now_s += 599
    await swept.sweep()
    assert work.runs == 1
    for clock_of in (clock, wall):
        clock_of.now_s += 2
    await swept.sweep()
    assert work.runs == 2


async def test_a_clock_that_is_slewed_holds_nothing_up() -> None:
    clock, wall, work = Clock(), Clock(), Work()
    swept = maintenance(Step("purge", work), clock=clock, wall=wall)
    for _ in range(10):
        clock.now_s += 60
        wall.now_s += 61
        await swept.sweep()
    assert work.runs == 10
