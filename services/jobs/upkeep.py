"""What jobs do by themselves: let go of what has had its time."""

from collections.abc import Sequence
from typing import Final

from services.jobs.ports import JobStore
from services.jobs.ports_content import BlobStore
from services.mesh.maintenance import Step

# Jobs dropped in one command, which holds up the store meanwhile.
_JOBS_AT_ONCE: Final = 1_000
# How long what has come of an upload rests; a request_id is remembered as long.
_UPLOADS_REST_S: Final = 24 * 3600


class Upkeep:
    """The steps of maintenance that workers take."""

    def __init__(self, store: JobStore, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    @property
    def steps(self) -> Sequence[Step]:
        return (Step("forget ended jobs", self._forget_jobs), Step("forget unfinished uploads", self._forget_uploads))

    async def _forget_jobs(self) -> int:
        forgotten = 0
        while count := await self._store.forget_ended(_JOBS_AT_ONCE):
            forgotten += count
        return forgotten

    async def _forget_uploads(self) -> int:
        return await self._blobs.forget_uploads(_UPLOADS_REST_S)
