"""A test run that is killed leaves nothing running."""

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests import reaper

SLEEPER = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(3600)")
# Starts another, as a mesh does, whenever that ends.
KEEPER = (sys.executable, "-c", f"import subprocess\nwhile True: subprocess.run({SLEEPER!r})")


async def started(*command: str, **options: object) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, **options)  # type: ignore[arg-type]
    assert process.stdout is not None
    assert await process.stdout.readline() == b"up\n"
    return process


@pytest.mark.parametrize("killed", ["the run", "its master"])
async def test_what_a_run_started_ends_with_it_and_nothing_else_does(tmp_path: Path, killed: str) -> None:
    mark, marked = f"MARK={tmp_path}", {**os.environ, "MARK": str(tmp_path)}
    run, master = await started(*SLEEPER), await started(*SLEEPER)
    kept = await started(*KEEPER, env=marked, start_new_session=True)
    nameless = await started("/usr/bin/env", "-i", *SLEEPER, cwd=tmp_path, start_new_session=True)
    other = await started(*SLEEPER, start_new_session=True)
    assert len(reaper.left_running(mark, tmp_path)) == 3
    command = (sys.executable, reaper.__file__, str(run.pid), str(master.pid), mark, str(tmp_path))
    watcher = await asyncio.create_subprocess_exec(*command)
    try:
        (run if killed == "the run" else master).kill()
        await asyncio.gather(run.wait(), kept.wait(), nameless.wait(), watcher.wait())
        assert reaper.left_running(mark, tmp_path) == []
        assert other.returncode is None
    finally:
        for each in (run, master, kept, nameless, watcher, other):
            with suppress(ProcessLookupError):
                each.kill()
            await each.wait()
