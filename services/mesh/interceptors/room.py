"""Refuses what adds to a disk that has little room left."""

from typing import Any, Final

from ragweave.contract import Method
from services.mesh.calls import Call
from services.mesh.chain import Proceed
from services.mesh.disk import Disk

_ADDING: Final = "INGEST"


class Room:
    """Refuses to create and to import while the data folder's disk is low.

    Searching, reading, deleting, cancelling and taking away rights go on.
    """

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    async def intercept(self, call: Call, request: Any, proceed: Proceed) -> Any:
        if adds(call.method) and not getattr(request, "validate_only", False):
            self._disk.check()
        return await proceed(call, request)


def adds(method: Method) -> bool:
    """Whether a user's call of the method leaves more on the disk than before. A purge is a job, but makes room."""
    grows = method.rate_class == _ADDING or method.name.startswith("Create")
    return grows and not method.internal and not method.name.startswith("Purge")
