"""Unit: a process of the mesh holds no library that it does not use; each takes megabytes of its memory.

Which service may use which is linted (pyproject.toml); this is about what libraries import by themselves.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ragweave.terminals import UNUSED

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("process", ["services.system", "gateway"])
def test_a_process_imports_nothing_that_is_for_terminals_or_for_a_database_it_does_not_have(process: str) -> None:
    imported = modules_of(process)
    assert "structlog.dev" in imported  # which takes rich where it finds it
    spared = (*UNUSED, "sqlalchemy.ext.asyncio", "sqlalchemy.orm", "qdrant_client")
    assert not {each for each in imported if each.startswith(tuple(f"{package}." for package in spared))}


def modules_of(process: str) -> set[str]:
    """What a process imports until it reads its settings, which it refuses."""
    unfit = {"RAGWEAVE_LOG_LEVEL": "loud"}
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", process],
        cwd=ROOT, env={**os.environ, **unfit}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ended.returncode and "RAGWEAVE_LOG_LEVEL" in ended.stderr
    return set(re.findall(r"^import time:.*\| +(\S+)$", ended.stderr, re.MULTILINE))
