"""The revision of each index as this process knows it: its own writes at once, others' by push, or by asking."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from services.mesh.errors import DependencyUnavailable
from services.retrieval.chunks import IndexId
from services.retrieval.ports import Bumped, IndexRevisions, RevisionFeed

# What is known is good for so long: less than the second that is promised, for the time a search takes to get here.
_GOOD_FOR_S: Final = 0.9
_FIRST_RETRY_S: Final = 0.1
_LAST_RETRY_S: Final = 1.0
_KNOWN: Final = 50_000


class RevisionsMirror:
    """Fulfils IndexRevisions, and tells revisions without asking while the feed is heard.

    A revision told is never older than the last write that this process acknowledged, nor than what any process
    had acknowledged `good_for_s` ago. Where that cannot be said, there is none.

    Args:
        feed: Tells of every replica's writes. While it is silent, the counter is asked, as often as needed for this.
        patience_s: How long a search waits for the counter.

    Attributes:
        era: Changes whenever revisions may begin anew: nothing known from before compares with what is known since.
    """

    def __init__(
        self,
        counter: IndexRevisions,
        feed: RevisionFeed,
        *,
        good_for_s: float = _GOOD_FOR_S,
        patience_s: float = 0.1,
    ) -> None:
        self.era = 0
        self._counter = counter
        self._feed = feed
        self._good_for_s = good_for_s
        self._patience_s = patience_s
        self._known: dict[IndexId, int] = {}
        self._reached: dict[IndexId, int] = {}
        self._asked_s: dict[IndexId, float] = {}
        self._heard_s = -float("inf")
        self._asking: dict[IndexId, asyncio.Task[None]] = {}
        self._rest_until_s = 0.0
        self._bumped: list[Callable[[IndexId, int], None]] = []

    def on_bump(self, told: Callable[[IndexId, int], None]) -> None:
        """Has `told` called with each write of any replica that the feed tells of: its index and revision."""
        self._bumped.append(told)

    async def bump(self, index: IndexId) -> int:
        era, before = self.era, self._least(index)
        revision = await self._counter.bump(index)
        if era != self.era or revision <= before:
            self._begin_anew()
        else:
            self._reached[index] = max(revision, self._reached.get(index, 0))
        return revision

    async def current(self, index: IndexId) -> int:
        era = self.era
        revision = await self._counter.current(index)
        if era == self.era:
            self._reached[index] = max(revision, self._reached.get(index, 0))
        return revision

    async def claim(self, tenant: str, index: IndexId) -> None:
        await self._counter.claim(tenant, index)

    async def of(self, tenant: str) -> Sequence[IndexId]:
        return await self._counter.of(tenant)

    async def forget(self, tenant: str, index: IndexId) -> None:
        await self._counter.forget(tenant, index)
        for known in (self._known, self._reached, self._asked_s):
            known.pop(index, None)

    async def check(self) -> None:
        await self._counter.check()

    def at(self, indexes: Sequence[IndexId]) -> tuple[int, ...] | None:
        """The revision of each index, where all can be told at once."""
        now_s = time.monotonic()
        heard = now_s - self._heard_s <= self._good_for_s
        revisions = []
        for index in indexes:
            known = self._known.get(index)
            if known is None or not (heard or now_s - self._asked_s.get(index, 0.0) <= self._good_for_s):
                return None
            revisions.append(max(known, self._reached.get(index, 0)))
        return tuple(revisions)

    async def told(self, indexes: Sequence[IndexId], within_s: float | None = None) -> tuple[int, ...] | None:
        """As `at`, after asking for what is not known; None where the counter does not answer in time."""
        patience_s = self._patience_s if within_s is None else min(within_s, self._patience_s)
        found = self.at(indexes)
        if found is None and time.monotonic() >= self._rest_until_s:
            with suppress(DependencyUnavailable, TimeoutError):
                async with asyncio.timeout(patience_s):
                    await asyncio.gather(*(asyncio.shield(self._ask(index)) for index in indexes))
            found = self.at(indexes)
            if found is None:
                self._rest_until_s = time.monotonic() + self._good_for_s
        return found

    async def run(self) -> None:
        """Follows the feed until cancelled."""
        log = structlog.get_logger("retrieval.revisions")
        retry_s = _FIRST_RETRY_S
        while True:
            following = False
            try:
                async for event in self._feed.follow():
                    if not following:
                        following, retry_s = True, _FIRST_RETRY_S
                        self._begin_anew()  # what was told meanwhile, nobody here has heard
                    if isinstance(event, Bumped):
                        self._known[event.index] = max(event.revision, self._known.get(event.index, 0))
                        for told in self._bumped:
                            told(event.index, event.revision)
                    else:
                        self._heard_s = event.at_s
            except DependencyUnavailable as error:
                log.info("the feed of revisions broke", reason=error.message, retry_in_s=retry_s)
            self._heard_s = -float("inf")
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, _LAST_RETRY_S)

    def _least(self, index: IndexId) -> int:
        return max(self._known.get(index, 0), self._reached.get(index, 0))

    def _begin_anew(self) -> None:
        self.era += 1
        self._heard_s = -float("inf")
        for known in (self._known, self._reached, self._asked_s):
            known.clear()

    def _ask(self, index: IndexId) -> "asyncio.Task[None]":
        asking = self._asking.get(index)
        if asking is None or asking.done():
            asking = self._asking[index] = asyncio.create_task(self._look(index))
            asking.add_done_callback(lambda done: self._looked(index, done))
        return asking

    async def _look(self, index: IndexId) -> None:
        """Asks until the answer is of the era in which it is heard."""
        era = -1
        while era != self.era:
            era, asked_s, least = self.era, time.monotonic(), self._least(index)
            revision = await self._counter.current(index)
            if revision < least and era == self.era:  # the counter was lost: it has begun from 0 again
                self._begin_anew()
        revision = max(revision, self._known.get(index, 0))
        if len(self._known) >= _KNOWN:
            self._begin_anew()
        self._known[index], self._asked_s[index] = revision, asked_s

    def _looked(self, index: IndexId, done: "asyncio.Task[None]") -> None:
        if self._asking.get(index) is done:
            del self._asking[index]
        if not done.cancelled():
            done.exception()  # whoever waits has it from the task
