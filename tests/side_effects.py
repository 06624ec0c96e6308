"""The side effects of a worker's work: every method of a port is one, unless it is known to change nothing."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import fields, replace
from typing import Any

from services.jobs.pipeline import Tools

# Port methods that change nothing for anybody else; what is not here is a side effect, whoever adds it.
READS = {
    # The last two, and keep of blobs, only keep what is ours.
    "queue": {"wait", "assignment", "absent", "heartbeat", "adopt"},
    "registry": {"collection", "lookup", "check_quota", "source_documents"},
    "index": {"revision"},
    "embedding": {"embed"},
    "models": {"model"},
    "blobs": {"keep", "read", "part", "open", "get_text"},
    "extractor": {"extract"},
    "files": {"resolve", "page", "read"},
    "evaluations": {"queries"},
}
# What tools hold besides ports.
_NO_PORTS = {"reader", "diagnose", "patience", "batch", "embedding_turns", "large_turns"}

Step = Callable[[str], Awaitable[None]]


def stepping(tools: Tools, *, before: Step | None = None, after: Step | None = None) -> Tools:
    """The tools, with a step before or after each side effect, named such as "index.upsert"."""
    ports = {each.name for each in fields(tools)} - _NO_PORTS
    return replace(tools, **{name: _Stepping(name, getattr(tools, name), before, after) for name in ports})


class _Stepping:
    def __init__(self, port: str, of: Any, before: Step | None, after: Step | None) -> None:
        self._port, self._of, self._before, self._after = port, of, before, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        if name in READS[self._port] or not inspect.iscoroutinefunction(found):
            return found

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            if self._before:
                await self._before(f"{self._port}.{name}")
            result = await found(*args, **kwargs)
            if self._after:
                await self._after(f"{self._port}.{name}")
            return result

        return stepped
