"""How the workers of a run share its tests, over workers in memory that behave as xdist's do."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from tests.by_mesh import ByMesh


class Worker:
    """Runs a test once it knows what comes after it: another one, or the end."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.to_run: deque[int] = deque()
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.to_run.extend(indices)

    def shutdown(self) -> None:
        self.shutting_down = True

    @property
    def runs(self) -> bool:
        return len(self.to_run) > (0 if self.shutting_down else 1)


class Run:
    """Tests given to workers by the scheduler that the suite uses."""

    def __init__(self, tests: list[str], workers: int) -> None:
        config: Any = SimpleNamespace(option=SimpleNamespace(), getvalue=lambda name: ["popen"] * workers)
        config.getoption = config.getvalue
        self.tests, self.scheduler, self.ran = tests, ByMesh(config), list[str]()
        self.workers = [self.joined(f"gw{number}") for number in range(workers)]
        self.scheduler.schedule()

    def joined(self, name: str) -> Any:
        worker: Any = Worker(name)
        self.scheduler.add_node(worker)
        self.scheduler.add_node_collection(worker, self.tests)
        return worker

    def step(self, worker: Any) -> None:
        """One test more, where the worker can."""
        if worker.runs:
            index = worker.to_run.popleft()
            self.ran.append(self.tests[index])
            self.scheduler.mark_test_complete(worker, index)

    def crash(self, worker: Any) -> str | None:
        """The worker ends in the middle of a test, and another one takes its place; the test."""
        self.workers.remove(worker)
        test = self.scheduler.remove_node(worker)
        self.workers.append(self.joined(f"{worker.gateway.id}-again"))
        self.scheduler.schedule()
        return test

    def finish(self) -> None:
        while any(worker.runs for worker in self.workers):
            for worker in self.workers:
                self.step(worker)


FILES = {"tests/unit/a.py": 3, "tests/unit/b.py": 1, "tests/unit/c.py": 4, "tests/unit/d.py": 1, "tests/unit/e.py": 1}
TESTS = [f"{file}::test_{number}" for file, count in FILES.items() for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_test_is_run_once(workers: int) -> None:
    run = Run(TESTS, workers)
    run.finish()
    assert sorted(run.ran) == sorted(TESTS)


@pytest.mark.parametrize("steps", range(len(TESTS) // 2))
def test_a_worker_that_crashes_leaves_no_other_waiting_for_a_test_that_never_comes(steps: int) -> None:
    run = Run(TESTS, 2)
    for _ in range(steps):
        for worker in list(run.workers):
            run.step(worker)
    crashed = run.crash(run.workers[0])
    run.finish()
    assert crashed not in run.ran[: steps * 2]
    assert sorted(run.ran) == sorted(TESTS)


def test_files_of_one_mesh_are_one_workers_and_those_with_their_own_another_ones() -> None:
    files = ("test_demo.py", "test_kill.py", "test_cli.py", "test_revocations.py", "test_chaos.py")
    tests = [f"tests/e2e/{file}::test_it" for file in files]
    run = Run(tests, 1)
    run.finish()
    assert [each.split("/")[2].partition(".")[0] for each in run.ran] == [
        "test_demo", "test_cli", "test_kill", "test_revocations", "test_chaos",
    ]  # fmt: skip
