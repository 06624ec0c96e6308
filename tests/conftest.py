"""What holds for every test: two workers share them by file, and nothing a run started outlives it."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests import reaper
from tests.by_mesh import ByMesh

# A run tries what every other run tried, on any machine; `--hypothesis-profile=default` draws anew.
settings.register_profile("suite", derandomize=True)
settings.load_profile("suite")

# Its default draws tracebacks with all their variables: for half a second in which nothing else runs, tokens included.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByMesh:
    return ByMesh(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers begin with what takes longest, so that none is left with it at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith("tests/e2e/"))


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """What a test makes of the logs of its process ends with it: their least level, for one."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session", autouse=True)
def _reaped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Has what the run leaves running ended with it, a run that is killed included."""
    name, pid = "RAGWEAVE_TEST_RUN", str(os.getpid())
    master = str(os.getppid()) if hasattr(request.config, "workerinput") else pid
    command = [sys.executable, reaper.__file__, pid, master, f"{name}={pid}", str(tmp_path_factory.getbasetemp())]
    os.posix_spawn(command[0], command, {**os.environ, name: "none"}, setsid=True)
    os.environ[name] = pid
