"""What jobs do by themselves: let go of what has had its time."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import cycle
from typing import Final

from services.jobs.blobs import PARTS
from services.jobs.listing import jobs_query
from services.jobs.ports import JobStore, Registry
from services.jobs.ports_content import BlobStore
from services.mesh.identity import Caller, acting_for
from services.mesh.maintenance import Step

# Jobs dropped in one command, which holds up the store meanwhile.
_JOBS_AT_ONCE: Final = 1_000
# How long what has come of an upload rests; a request_id is remembered as long.
_UPLOADS_REST_S: Final = 24 * 3600
_OLDEST: Final = jobs_query(filter="", order_by="create_time", page_size=1, page_token="", page=0)


class Upkeep:
    """The steps of maintenance that workers take.

    Args:
        rest_s: Seconds that content stays after the last document or job that needs it.
    """

    def __init__(self, store: JobStore, blobs: BlobStore, registry: Registry, *, rest_s: float) -> None:
        self._store = store
        self._blobs = blobs
        self._registry = registry
        self._rest = timedelta(seconds=rest_s)
        first = random.randrange(PARTS)  # noqa: S311 - of several workers, each begins somewhere else
        self._parts = cycle((*range(first, PARTS), *range(first)))

    @property
    def steps(self) -> Sequence[Step]:
        return (
            Step("forget ended jobs", self._forget_jobs),
            Step("forget unfinished uploads", self._forget_uploads),
            Step("forget content nobody needs", self._forget_content),
        )

    async def _forget_jobs(self) -> int:
        forgotten = 0
        while count := await self._store.forget_ended(_JOBS_AT_ONCE):
            forgotten += count
        return forgotten

    async def _forget_uploads(self) -> int:
        return await self._blobs.forget_uploads(_UPLOADS_REST_S)

    async def _forget_content(self) -> int:
        """One part of all content a sweep: what neither a document has nor a job may still read."""
        forgotten = 0
        now = datetime.now(UTC)
        async for tenant, resting in self._blobs.resting(next(self._parts), now - self._rest):
            with acting_for(Caller.of_service("jobs", tenant)):
                needed = await self._registry.needed(resting)
            unneeded = [content_hash for content_hash in resting if content_hash not in needed]
            if unneeded:
                # A job keeps what it needs when it begins to need it, which is after it was made.
                oldest = (await self._store.list_jobs(tenant, _OLDEST)).items
                since = min([now, *(job.create_time for job in oldest)])
                forgotten += await self._blobs.forget(tenant, unneeded, since - self._rest)
        return forgotten
