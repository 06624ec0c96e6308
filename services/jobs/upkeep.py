"""What jobs do by themselves: let go of what has had its time."""

from collections.abc import Sequence
from typing import Final

from services.jobs.ports import JobStore
from services.mesh.maintenance import Step

# Jobs dropped in one command, which holds up the store meanwhile.
_JOBS_AT_ONCE: Final = 1_000


class Upkeep:
    """The steps of maintenance that workers take."""

    def __init__(self, store: JobStore) -> None:
        self._store = store

    @property
    def steps(self) -> Sequence[Step]:
        return (Step("forget ended jobs", self._forget_jobs),)

    async def _forget_jobs(self) -> int:
        forgotten = 0
        while count := await self._store.forget_ended(_JOBS_AT_ONCE):
            forgotten += count
        return forgotten
