"""What every process tells of itself: its version, how late its event loop is, and the room on its disk."""

import asyncio
import math
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram

from services.mesh.this_process import product_version

# What is told as of late.
_RECENT_S: Final = 10.0
# Seconds between two looks. A loop that stands still for a while is late once, by all of it.
LOOK_S: Final = 0.25
# A timer of a loop at rest is up to a millisecond late: epoll counts in these.
_BUCKETS_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


@cache
def _families(registry: CollectorRegistry) -> tuple[Gauge, Histogram, Gauge, Gauge]:
    """Made once for a registry, since a name may be taken once."""
    return (
        Gauge("ragweave_build_info", "1, with what runs.", ["service", "version"], registry=registry),
        Histogram(
            "ragweave_event_loop_lag_seconds",
            "How late the event loop came to a timer, looked at four times a second.",
            buckets=_BUCKETS_S,
            registry=registry,
        ),
        Gauge("ragweave_disk_free_bytes", "Room left for the data folder's files.", registry=registry),
        Gauge("ragweave_disk_size_bytes", "Size of the file system the data folder is on.", registry=registry),
    )


@asynccontextmanager
async def telling_vitals(
    service: str, data_dir: Path, *, look_s: float = LOOK_S, registry: CollectorRegistry = REGISTRY
) -> AsyncIterator[Callable[[], float]]:
    """Tells the vital signs of this process inside the block; yields by how many seconds the loop was late of late, at
    most. The disk is asked at each scrape, outside the loop.
    """
    build, lag, free, size = _families(registry)
    build.labels(service, product_version()).set(1)
    free.set_function(lambda: _usage(data_dir)[1])
    size.set_function(lambda: _usage(data_dir)[0])
    recent_s: deque[float] = deque([0.0], maxlen=max(1, round(_RECENT_S / look_s)))
    watching = asyncio.create_task(_watch(lag, recent_s, look_s))
    try:
        yield lambda: max(recent_s)
    finally:
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching


async def _watch(lag: Histogram, recent_s: deque[float], look_s: float) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + look_s
        await asyncio.sleep(look_s)
        recent_s.append(max(0.0, loop.time() - due_s))
        lag.observe(recent_s[-1])


def _usage(folder: Path) -> tuple[float, float]:
    """Bytes in all and bytes free; NaN while the folder is not there."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return math.nan, math.nan
    return usage.total, usage.free
