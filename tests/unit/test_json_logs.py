"""Which lines a process writes, by their loggers and levels."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from gateway.settings import Settings as GatewaySettings
from ragweave.json_logs import log_levels_from
from services.mesh.settings import MeshSettings

# Every logger says something at every level.
_TALKING = """
import logging, sys, structlog
from ragweave.json_logs import log_levels_from, write_json_logs
write_json_logs("jobs", "info", log_levels_from(sys.argv[1]))
for level in ("debug", "info", "warning", "error"):
    for name in ("mesh.calls", "jobs", "jobs.worker"):
        getattr(structlog.get_logger(name), level)("ours")
        getattr(structlog.get_logger(name).bind(item="i"), level)("ours, bound")
    for name in ("grpc", "grpc._cython.cygrpc", "httpx"):
        getattr(logging.getLogger(name), level)("a library's")
"""
ALL = ["debug", "info", "warning", "error"]


def said(levels: str) -> dict[str, list[str]]:
    """Levels of the lines written, by logger."""
    command = [sys.executable, "-c", _TALKING, levels]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found: dict[str, list[str]] = {}
    for line in map(json.loads, done.stderr.splitlines()):
        assert line["service"] == "jobs"
        found.setdefault(line["logger"] + (" bound" if "item" in line else ""), []).append(line["level"])
    return found


def test_loggers_without_a_level_of_their_own_have_that_of_the_process_and_libraries_warning() -> None:
    ours = ("mesh.calls", "jobs", "jobs.worker")
    assert said("") == {
        **{name + suffix: ALL[1:] for name in ours for suffix in ("", " bound")},
        **{name: ALL[2:] for name in ("grpc", "grpc._cython.cygrpc", "httpx")},
    }


def test_a_logger_has_its_own_level_or_that_of_the_closest_above_it() -> None:
    found = said("mesh=error, jobs=warning, jobs.worker=debug, grpc=debug")
    assert found == {
        "mesh.calls": ALL[3:],
        "mesh.calls bound": ALL[3:],
        "jobs": ALL[2:],
        "jobs bound": ALL[2:],
        "jobs.worker": ALL,
        "jobs.worker bound": ALL,
        "grpc": ALL,
        "grpc._cython.cygrpc": ALL,
        "httpx": ALL[2:],
    }


def test_the_environment_says_the_levels_of_services_and_of_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAGWEAVE_LOG_LEVELS", "jobs=DEBUG,gateway.calls=error")
    assert MeshSettings().log_levels == GatewaySettings().log_levels == {"jobs": 10, "gateway.calls": 40}


@pytest.mark.parametrize("text", ["debug", "=debug", "jobs=loud", "jobs=", "a b=info", "jobs.=info", "a=info,a=debug"])
def test_what_names_no_logger_or_no_level_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^(takes loggers|has the logger)"):
        log_levels_from(text)
    monkeypatch.setenv("RAGWEAVE_LOG_LEVELS", text)
    for kind in (MeshSettings, GatewaySettings):
        with pytest.raises(ValidationError, match=r"RAGWEAVE_LOG_LEVELS|log_levels"):
            kind()
