"""What a process does beside its calls, for as long as it runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

import structlog

from services.mesh.errors import DependencyUnavailable

_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 5.0


@asynccontextmanager
async def kept_going(what: str, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Does work that has no end inside the block; begins it anew, after a pause, when it breaks off."""

    async def keep_going() -> None:
        log = structlog.get_logger(f"jobs.{what}")
        loop = asyncio.get_running_loop()
        retry_s = _FIRST_RETRY_S
        while True:
            begun = loop.time()
            try:
                await work()
            except DependencyUnavailable as error:
                log.info("broke off", reason=error.message, retry_in_s=retry_s)
            except Exception:
                log.exception("broke off", retry_in_s=retry_s)
            if loop.time() - begun > _LAST_RETRY_S:
                retry_s = _FIRST_RETRY_S
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    going = asyncio.create_task(keep_going())
    try:
        yield
    finally:
        going.cancel()
        with suppress(asyncio.CancelledError):
            await going
