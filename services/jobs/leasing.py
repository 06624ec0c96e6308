"""The worker: leases work, keeps the leases alive, and sees each piece of work to an end that is written down."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

import structlog

from services.jobs.fairness import Capacity
from services.jobs.job import Assignment, Failure, ItemChange, Lease, Outcome
from services.jobs.ports import Diagnose, Queue
from services.jobs.work import DocumentBusy, JobCancelled, Work
from services.mesh import traces
from services.mesh.errors import DependencyUnavailable, LeaseLost
from services.mesh.identity import Caller, acting_for

_INTERNAL = 13
_LONGEST_BACKOFF_S = 60.0
_BUSY_PAUSE_S = 0.5
_STORE_PAUSE_S = 0.2
# How long work that may have written gets to end when the worker is told to stop.
_DRAIN_S = 5.0

Begin = Callable[[Lease, Assignment], Work]
_T = TypeVar("_T")


class _Stop(StrEnum):
    """Why a running piece of work is cancelled."""

    LOST = "LOST"
    CANCEL = "CANCEL"
    SHUTDOWN = "SHUTDOWN"


@dataclass(eq=False)
class _Active:
    """A lease, since when it is held (time.monotonic()), and the task that works on it."""

    lease: Lease
    since_s: float = field(default_factory=time.monotonic)
    task: "asyncio.Task[None]" = field(init=False)
    work: Work | None = None
    why: _Stop | None = None

    def stop(self, why: _Stop) -> None:
        if self.why is None:
            self.why = why
            self.task.cancel()


class Worker:
    """Works on several leases at a time, so that reading, extracting and cutting overlap with embedding.

    What a worker died over before is worked on alone: if it kills again, it takes nothing else with it.

    Args:
        begin: Makes the work of a lease.
        slots: Leases at a time, shared by tenants as `Capacity` has it.
        heartbeat_s: Pause between two signs of life; well under the length of a lease.
        attempts: Times an item is begun, deaths of workers included, before it has failed; what it wrote is tried as
            often to be taken back, then it has failed all the same.
        backoff_s: Pause after the first failed attempt; doubles with each.
    """

    def __init__(
        self,
        queue: Queue,
        begin: Begin,
        diagnose: Diagnose,
        *,
        slots: int,
        heartbeat_s: float,
        attempts: int,
        backoff_s: float,
    ) -> None:
        self._queue = queue
        self._begin = begin
        self._diagnose = diagnose
        self._capacity = Capacity(slots)
        self._heartbeat_s = heartbeat_s
        self._attempts = attempts
        self._backoff_s = backoff_s
        self._active: set[_Active] = set()
        self._changed = asyncio.Event()
        self._bell: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self._log = structlog.get_logger("jobs.worker")

    def held_since(self) -> list[float]:
        """Since when each lease is held, by time.monotonic(); from any thread."""
        return [active.since_s for active in list(self._active)]

    async def run(self) -> None:
        """Until cancelled; then what may have written is ended, and the rest is put back."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._lease()
        except asyncio.CancelledError:
            await self._drain()
            raise
        finally:
            left = [beating, *([self._bell] if self._bell else []), *(active.task for active in self._active)]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _lease(self) -> None:
        known = False  # whether all that is leased to us is being worked on
        while True:
            if self._broken:
                raise self._broken
            self._changed.clear()
            try:
                if not known:
                    await self._queue.adopt([active.lease for active in self._active])
                    known = True
                full = self._full()
                if full is None:
                    await self._changed.wait()
                elif leases := await self._queue.lease(1, full):
                    self._start(leases[0])
                else:
                    known = False  # nothing else to do: look whether an answer was lost without our noticing
                    await self._work_or_room()
            except DependencyUnavailable as error:
                known = False  # an answer with leases in it may have been lost
                self._log.warning("no work to be had", reason=error.message)
                await asyncio.sleep(_STORE_PAUSE_S)

    def _full(self) -> Set[str] | None:
        """Tenants that get no more for now; None where nobody does."""
        if any(active.lease.deaths for active in self._active):
            return None
        return self._capacity.full(Counter(active.lease.tenant for active in self._active))

    async def _work_or_room(self) -> None:
        """Until there may be new work, or some has ended."""
        changed = asyncio.create_task(self._changed.wait())
        if self._bell is None:
            self._bell = asyncio.create_task(self._queue.wait(self._heartbeat_s))
        try:
            await asyncio.wait({self._bell, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._bell.done():
            rung, self._bell = self._bell, None
            rung.result()

    def _start(self, lease: Lease) -> None:
        active = _Active(lease)
        self._active.add(active)

        def ended(task: "asyncio.Task[None]") -> None:
            self._active.discard(active)
            self._changed.set()
            if not task.cancelled() and (error := task.exception()) is not None:
                self._broken = error

        active.task = asyncio.create_task(self._work(active))
        active.task.add_done_callback(ended)

    async def _work(self, active: _Active) -> None:
        try:
            if active.lease.deaths:
                await self._alone(active)
            lease = active.lease
            piece = f"{lease.job_id}:{lease.number}"
            with traces.begun(lease.task, lease.queued_by, request_id=piece, about=_told(lease)):
                await self._to_its_end(active)
        except LeaseLost:
            pass  # logged where it was refused; who has the lease now does the work
        except asyncio.CancelledError:
            if active.why is None:
                raise
            if active.why is not _Stop.LOST:
                await self._stopped(active.lease, active.why)

    async def _alone(self, active: _Active) -> None:
        """Until the others have ended; none is begun meanwhile."""
        others = {each.task for each in self._active if each is not active}
        if others:
            await asyncio.wait(others)

    async def _to_its_end(self, active: _Active) -> None:
        lease = active.lease
        job = await self._written(lambda: self._queue.assignment(lease))
        traces.note(lambda: {"ragweave.job.type": job.type, "ragweave.collection": job.collection_id})
        subject = Caller(job.tenant, job.subject, principals=frozenset(job.principals), by_itself=True)
        with acting_for(subject):
            active.work = work = self._begin(lease, job)
            if lease.attempt > 2 * self._attempts:
                await self._written(lambda: self._queue.finish(lease, _torn(_exhausted(lease))))
                return
            if lease.attempt > self._attempts:
                await self._fail(lease, work, _exhausted(lease))
                return
            try:
                outcome = await work.run()
            except JobCancelled:
                outcome = Outcome(ItemChange.CANCEL)
            except DocumentBusy:
                await self._written(lambda: self._queue.put_back(lease, _BUSY_PAUSE_S))
                return
            except LeaseLost:
                raise
            except Exception as error:
                await self._failed(lease, work, self._diagnose(error))
                return
        if outcome is not None:
            traces.note(lambda: {"ragweave.item.change": outcome.change, "ragweave.item.chunks": outcome.chunks})
            await self._written(lambda: self._queue.finish(lease, outcome))

    async def _failed(self, lease: Lease, work: Work, failure: Failure) -> None:
        """Once more later, or never."""
        traces.failed(failure.reason)
        if failure.transient and lease.attempt < self._attempts:
            await self._later(lease, failure)
        else:
            await self._fail(lease, work, failure)

    async def _later(self, lease: Lease, failure: Failure) -> None:
        self._log.info("attempt failed", **_told(lease), reason=failure.reason, message=failure.message)
        await self._written(lambda: self._queue.put_back(lease, self._pause_s(lease.attempt), failure))

    async def _fail(self, lease: Lease, work: Work, failure: Failure) -> None:
        try:
            outcome = await self._abandoned(lease, work, failure)
        except DocumentBusy:
            await self._written(lambda: self._queue.put_back(lease, _BUSY_PAUSE_S))
            return
        except JobCancelled:
            outcome = Outcome(ItemChange.CANCEL)
        else:
            self._log.info("failed", **_told(lease), reason=failure.reason, message=failure.message)
        await self._written(lambda: self._queue.finish(lease, outcome))

    async def _abandoned(self, lease: Lease, work: Work, failure: Failure) -> Outcome:
        """How it ends; to leave things half done would be worse than to be late, but no item is late for ever."""
        for tried in range(1, self._attempts + 1):
            try:
                return await work.abandon(failure)
            except (DocumentBusy, JobCancelled, LeaseLost):
                raise
            except Exception as error:
                met = self._diagnose(error)
            if not met.transient:
                break
            if tried < self._attempts:
                await asyncio.sleep(self._pause_s(tried))
        self._log.error("cannot be abandoned cleanly", **_told(lease), reason=met.reason, message=met.message)
        return _torn(failure, met)

    def _pause_s(self, attempt: int) -> float:
        pause_s: float = min(self._backoff_s * 2 ** (attempt - 1), _LONGEST_BACKOFF_S)
        return pause_s * random.uniform(0.75, 1.25)  # noqa: S311  (spreads retries, guards nothing)

    async def _stopped(self, lease: Lease, why: _Stop) -> None:
        try:
            if why is _Stop.CANCEL:
                await self._written(lambda: self._queue.finish(lease, Outcome(ItemChange.CANCEL)))
            else:
                await self._queue.put_back(lease)
        except (LeaseLost, DependencyUnavailable):
            pass  # it comes back when the lease runs out

    async def _written(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Repeats what has to be written down until the store takes it, or gave the lease to another."""
        while True:
            try:
                return await write()
            except DependencyUnavailable:
                await asyncio.sleep(_STORE_PAUSE_S)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            active = list(self._active)
            if not active:
                continue
            try:
                answers = await self._queue.heartbeat([each.lease for each in active])
            except DependencyUnavailable:
                continue
            for each, answer in zip(active, answers, strict=True):
                if each.task.done():
                    continue
                if answer == "LOST":
                    self._log.warning("lease lost", **_told(each.lease))
                    each.stop(_Stop.LOST)
                elif answer == "CANCEL" and each.work is not None and not each.work.committing:
                    each.stop(_Stop.CANCEL)

    async def _drain(self) -> None:
        for each in list(self._active):
            if each.work is None or not each.work.committing:
                each.stop(_Stop.SHUTDOWN)
        if self._active:
            await asyncio.wait({each.task for each in self._active}, timeout=_DRAIN_S)
        for each in list(self._active):
            each.stop(_Stop.SHUTDOWN)
        if self._active:
            await asyncio.wait({each.task for each in self._active}, timeout=_DRAIN_S)


def _exhausted(lease: Lease) -> Failure:
    what = lease.spec.source_uri or lease.spec.document_id if lease.spec else "the source"
    return Failure(
        _INTERNAL,
        "ATTEMPTS_EXHAUSTED",
        f"{what}: begun {lease.attempt - 1} times; its worker died over it {lease.deaths} times in a row",
    )


def _torn(failure: Failure, met: Failure | None = None) -> Outcome:
    """Failed, and not cleanly: what may have been written of it is still there. With what else was met."""
    if met is not None:
        failure = replace(failure, message=f"{failure.message}; giving it up failed too: {met.reason}: {met.message}")
    return Outcome(ItemChange.FAIL, error=failure, torn=True)


def _told(lease: Lease) -> dict[str, str | int]:
    return {"tenant": lease.tenant, "job": lease.job_id, "item": lease.number, "attempt": lease.attempt}
