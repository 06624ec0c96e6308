"""How far each index has come, for searches that must see a write whichever replica made it."""

import asyncio
from typing import Final

from services.mesh.errors import DeadlineExceeded
from services.retrieval.chunks import IndexId
from services.retrieval.ports import IndexRevisions

# What is left of a call's time for saying that it was not enough; of a short one, a fifth.
_MARGIN_S: Final = 0.2
_KNOWN: Final = 10_000


class Freshness:
    """Lets searches wait for a revision. A write is counted once every replica's searches show it.

    Whatever number of searches waits for an index, the counter is asked once at a time, and `pause_s` apart; for a
    revision that was seen to be reached, not at all.

    Args:
        patience_s: The longest wait, whatever time a caller has.
    """

    def __init__(self, revisions: IndexRevisions, *, pause_s: float = 0.05, patience_s: float = 5.0) -> None:
        self._revisions = revisions
        self._pause_s = pause_s
        self._patience_s = patience_s
        self._seen: dict[IndexId, int] = {}
        self._looking: dict[IndexId, asyncio.Task[int]] = {}

    async def current(self, index: IndexId) -> int:
        """The revision of the last write; see IndexRevisions."""
        return await self._revisions.current(index)

    async def reached(self, index: IndexId, revision: int, timeout_s: float | None = None) -> None:
        """Returns once the index has come to that revision.

        Args:
            timeout_s: What the caller's time leaves; None where it has no end.

        Raises:
            DeadlineExceeded: It has not in time.
            DependencyUnavailable: The counter does not answer.
        """
        now = asyncio.get_running_loop().time
        began = now()
        allowed_s = self._patience_s if timeout_s is None else min(self._patience_s, timeout_s)
        until = began + allowed_s - min(_MARGIN_S, allowed_s / 5)
        pause_s = 0.0
        while self._seen.get(index, 0) < revision:
            found: int | None = None
            try:
                async with asyncio.timeout_at(until if pause_s else None):
                    found = await asyncio.shield(self._look(index, pause_s))
            except TimeoutError:
                pass
            if found is not None and found >= revision:
                return
            if now() >= until:
                raise DeadlineExceeded(
                    f"the index is at revision {self._seen.get(index, 0)}, and not yet at {revision}, which the "
                    f"consistency_token asks for; waited {now() - began:.1f} s. Search again, or without the token"
                )
            pause_s = self._pause_s

    def _look(self, index: IndexId, pause_s: float) -> "asyncio.Task[int]":
        """The look at the counter that is under way, or else one that begins after a pause."""
        looking = self._looking.get(index)
        if looking is None or looking.done():  # its end is told later in the turn of the loop in which it ended
            looking = self._looking[index] = asyncio.create_task(self._current(index, pause_s))
            looking.add_done_callback(lambda done: self._looked(index, done))
        return looking

    async def _current(self, index: IndexId, pause_s: float) -> int:
        await asyncio.sleep(pause_s)
        return await self._revisions.current(index)

    def _looked(self, index: IndexId, done: "asyncio.Task[int]") -> None:
        if self._looking.get(index) is done:
            del self._looking[index]
        if done.cancelled() or done.exception() is not None:  # whoever waits has it from the task
            return
        if len(self._seen) >= _KNOWN:
            self._seen.clear()
        self._seen[index] = max(self._seen.get(index, 0), done.result())
