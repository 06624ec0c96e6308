"""What every process tells of itself."""

import asyncio
import math
import time
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry

from services.mesh.vitals import telling_vitals

BLOCKED_S = 0.05


async def looked_again(registry: CollectorRegistry) -> None:
    """Returns once the loop's monitor has looked after this was called."""
    name = "ragweave_event_loop_lag_seconds_count"
    before = registry.get_sample_value(name) or 0
    while (registry.get_sample_value(name) or 0) <= before:
        await asyncio.sleep(0.001)


async def test_a_loop_that_stood_still_was_late_by_as_much(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    look_s = 0.01
    async with telling_vitals("scripted", tmp_path, look_s=look_s, registry=registry):
        await looked_again(registry)
        before = registry.get_sample_value("ragweave_event_loop_lag_seconds_sum") or 0
        time.sleep(BLOCKED_S)
        await looked_again(registry)
        lag_s = (registry.get_sample_value("ragweave_event_loop_lag_seconds_sum") or 0) - before
    assert lag_s >= BLOCKED_S - look_s


async def test_a_process_tells_its_version_and_the_room_on_its_disk(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with telling_vitals("scripted", tmp_path, registry=registry):
        labels = {"service": "scripted", "version": version("ragweave")}
        assert registry.get_sample_value("ragweave_build_info", labels) == 1
        free = registry.get_sample_value("ragweave_disk_free_bytes")
        size = registry.get_sample_value("ragweave_disk_size_bytes")
    assert free is not None and size is not None
    assert 0 < free <= size


async def test_a_data_folder_that_is_not_there_yet_spoils_no_scrape(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    async with telling_vitals("scripted", tmp_path / "later", registry=registry):
        assert math.isnan(registry.get_sample_value("ragweave_disk_free_bytes") or 0)
