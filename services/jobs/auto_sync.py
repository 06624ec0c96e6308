"""Keeps collections in line with the directories they are bound to, where that is wanted, without being asked."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from services.jobs.ports_bindings import Binding, Bindings, Directories, Marks, Watch
from services.jobs.syncing import SyncRequest, Syncs
from services.mesh.audit import Trail, audited
from services.mesh.errors import CollectionNotFound, DependencyUnavailable, DomainError, JobRunning
from services.mesh.identity import Caller, acting_for

_SYNC: Final = "/ragweave.v1.JobService/SyncCollection"


class AutoSync:
    """Looks at directories when something happens in them, and now and then, since not everything is told of.

    A look compares sizes and times of files with those of the last sync; only where they differ a sync is made. Any
    number of processes may look: the mark is shared, and of the syncs of a collection one at a time has not ended. The
    mark is set after the job is recorded, so that a kill in between costs a sync that finds nothing to do.

    Args:
        look_s: Seconds between two looks at a directory that nothing is told of, and until the next one at a directory
            that could not be synced.
        rest_s: Seconds a directory is left alone after a sync, however much happens in it.
        whole_s: Seconds after which a directory is synced even though it looks the same: that reads every file, and
            finds what was changed without a trace, or failed to be imported.
    """

    def __init__(
        self,
        bindings: Bindings,
        directories: Directories,
        syncs: Syncs,
        marks: Marks,
        watch: Watch,
        trail: Trail,
        *,
        look_s: float,
        rest_s: float,
        whole_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bindings = bindings
        self._directories = directories
        self._syncs = syncs
        self._marks = marks
        self._watch = watch
        self._trail = trail
        self._look_s = look_s
        self._rest_s = rest_s
        self._whole_s = whole_s
        self._clock = clock
        self._bound: dict[str, Binding] = {}
        self._paths: dict[str, str] = {}
        self._due_s: dict[str, float] = {}
        self._rested_s: dict[str, float] = {}
        self._troubles: dict[str, str] = {}
        self._learned = asyncio.Event()
        self._log = structlog.get_logger("jobs.auto_sync")

    async def learn(self) -> None:
        """Which collections there are, without end. Raises DependencyUnavailable; to be begun again then."""
        async for told in self._bindings.follow():
            for uid, binding in told.items():
                if binding is None:
                    self._forget(uid)
                elif self._bound.get(uid) != binding:
                    self._forget(uid)
                    self._bound[uid] = binding
                    self._learned.set()

    async def follow(self) -> None:
        """Syncs what has changed, without end."""
        while True:
            self._learned.clear()
            await self.look()
            changed = await self._watch.changed(frozenset(self._paths.values()), self._until_due_s(), self._learned)
            for uid, path in self._paths.items():
                if path in changed:
                    self._due_s[uid] = min(self._due_s.get(uid, 0.0), self._rested_s.get(uid, 0.0))

    def _until_due_s(self) -> float:
        """Seconds until a directory is to be looked at again."""
        return max(0.0, min(self._due_s.values(), default=self._clock() + self._look_s) - self._clock())

    async def look(self) -> None:
        """Looks once at every directory that is due; one that cannot be looked at is left for the next time."""
        for uid, binding in list(self._bound.items()):
            if self._clock() < self._due_s.get(uid, 0.0):
                continue
            self._leave(uid, self._look_s, self._look_s)
            who = Caller.of_service("jobs", binding.tenant)
            try:
                with acting_for(who):
                    synced = await self._look_at(uid, binding, who)
                self._leave(uid, max(self._look_s, self._rest_s), self._rest_s if synced else 0.0)
                self._troubles.pop(uid, None)
            except JobRunning:
                pass  # what it has listed may be older than this: the next look finds the mark as it was
            except CollectionNotFound:
                self._forget(uid)
            except DomainError as error:
                self._in_trouble(uid, binding, error)
            except Exception:
                self._log.exception("not followed", tenant=binding.tenant, collection=binding.collection_id)
            if uid not in self._bound:
                self._forget(uid)  # it was told to go meanwhile

    def _leave(self, uid: str, due_in_s: float, rests_s: float) -> None:
        """The next look is due by then, and no sooner than it has rested, whatever happens in the directory."""
        self._due_s[uid] = self._clock() + due_in_s
        self._rested_s[uid] = self._clock() + rests_s

    async def _look_at(self, uid: str, binding: Binding, who: Caller) -> bool:
        """Syncs the collection where its directory looks otherwise than at its last sync; whether it does."""
        directory, file = await self._directories.resolve(binding.tenant, binding.source)
        if not file:
            self._paths[uid] = self._directories.whereabouts(binding.tenant, directory)
        stamp = await self._directories.stamp(binding.tenant, directory)
        if stamp == await self._marks.mark(binding.tenant, uid):
            return False
        async with audited(self._trail, who, _SYNC, f"collections/{binding.collection_id}"):
            job = await self._syncs.sync(SyncRequest(binding.collection_id), who)
        await self._marks.set_mark(binding.tenant, uid, stamp, self._whole_s)
        self._log.info("follows its directory", tenant=binding.tenant, collection=binding.collection_id, job=job.id)
        return True

    def _in_trouble(self, uid: str, binding: Binding, error: DomainError) -> None:
        """Says so once, not at every look."""
        if not isinstance(error, DependencyUnavailable):
            self._paths.pop(uid, None)  # what is no longer there cannot be watched
        if self._troubles.get(uid) != error.message:
            self._troubles[uid] = error.message
            told = {"tenant": binding.tenant, "collection": binding.collection_id}
            self._log.warning("not followed", **told, reason=error.reason, message=error.message)

    def _forget(self, uid: str) -> None:
        for known in (self._bound, self._paths, self._due_s, self._rested_s, self._troubles):
            known.pop(uid, None)
